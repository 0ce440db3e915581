"""Relabelling: which labels the model is trained on."""

import pytest
from transformers import TrainerCallback

from tests.support.tiny import (
    FORGET,
    RETAIN,
    collate_images,
    images,
    make_trainer,
    tiny_vit,
    tiny_whisper,
)


class Labels(TrainerCallback):
    """Records the labels that the model is trained on."""

    def __init__(self, model):
        self.seen = []
        model.register_forward_pre_hook(
            lambda module, args, kwargs: (
                self.seen.append(kwargs["labels"].clone()) if module.training else None
            ),
            with_kwargs=True,
        )


def test_random_classes_are_wrong_and_all_of_the_others(tmp_path):
    model, forget = tiny_vit(classes=4), images(40, classes=1)
    labels = Labels(model)
    make_trainer(
        model,
        tmp_path,
        forget=forget,
        retain=images(4),
        collator=collate_images,
        method="random_label",
    ).train()
    drawn = labels.seen[-2]
    # All samples are of class 0.
    assert drawn.shape == (40,) and set(drawn.tolist()) == {1, 2, 3}


def test_random_transcripts_are_those_of_other_retain_samples(tmp_path):
    model = tiny_whisper()
    labels = Labels(model)
    # The last two have the transcript of a forget sample.
    retain = [*RETAIN, *FORGET[:2]]
    make_trainer(model, tmp_path, retain=retain, method="random_label").train()
    drawn = [row[row != -100].tolist() for row in labels.seen[-2]]
    pool, transcripts = (
        [x["labels"].tolist() for x in retain],
        [x["labels"].tolist() for x in FORGET],
    )
    assert len(drawn) == len(FORGET) and all(words in pool for words in drawn)
    assert len({tuple(words) for words in drawn}) > 2
    order = make_trainer(tiny_whisper(), tmp_path, method="finetune").get_train_dataloader()
    (batch,) = order
    true = [row[row != -100].tolist() for row in batch["labels"]]
    assert sorted(true) == sorted(transcripts) and all(a != b for a, b in zip(drawn, true))


def test_random_transcripts_need_another_one(tmp_path):
    same = [{**sample, "labels": FORGET[0]["labels"]} for sample in RETAIN]
    with pytest.raises(ValueError, match="found no other transcript"):
        make_trainer(
            tiny_whisper(), tmp_path, forget=FORGET[:1], retain=same, method="random_label"
        ).train()
