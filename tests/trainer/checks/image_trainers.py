"""Trainers of a tiny image classifier."""

from tests.support.tiny import (
    collate_images,
    images,
    make_trainer,
    tiny_vit,
)

IMAGES = {"forget": images(6), "retain": images(4, seed=1), "collator": collate_images}


SPLITS = {"forget": images(3), "test": images(2)}


def image_trainer(tmp_path, arguments=None, **config):
    config = {"per_device_train_batch_size": 3, "optimizer": False, **config}
    return make_trainer(tiny_vit(), tmp_path, **{**IMAGES, "arguments": arguments, **config})
