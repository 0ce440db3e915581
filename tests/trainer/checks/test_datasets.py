"""Data that cannot work is refused at construction; datasets that Trainer accepts work."""

import copy
import itertools
import json

import datasets
import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import default_data_collator

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.hub.staging import stage
from tests.support.tiny import (
    FORGET,
    collate,
    images,
    make_trainer,
    tiny_vit,
    tiny_whisper,
)
from tests.trainer.checks.image_trainers import IMAGES, image_trainer


def test_evaluation_only_needs_no_data_to_forget(tmp_path):
    """Scripts pass train_dataset=None if only --do_eval is given. A frozen model can be evaluated
    too."""
    model = tiny_whisper().requires_grad_(False)
    args = UnlearnConfig(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = UnlearnTrainer(model, args, collate, None, FORGET)
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.create_model_card()
    with pytest.raises(ValueError, match="forget_dataset is missing"):
        trainer.train()
    args.do_train = True
    with pytest.raises(ValueError, match="forget_dataset is missing"):
        UnlearnTrainer(model, args, collate, None, FORGET)


def test_nothing_to_forget_and_nothing_to_train_are_refused(tmp_path):
    with pytest.raises(ValueError, match="forget_dataset is empty"):
        image_trainer(tmp_path, forget=[], per_device_train_batch_size=2)
    with pytest.raises(ValueError, match="no parameter of the model has requires_grad"):
        make_trainer(tiny_vit().requires_grad_(False), tmp_path, **IMAGES, optimizer=False)


@pytest.mark.parametrize(
    "given, message",
    [
        ("data.csv", "is 'data.csv', which is not a dataset"),
        ({"train": images(2)}, "has the keys train, but must be one dataset"),
        (iter(images(2)), "is a list_iterator, which can be read only once"),
    ],
)
@pytest.mark.parametrize("name", ["forget", "retain"])
def test_values_that_are_not_datasets_are_refused(tmp_path, name, given, message):
    with pytest.raises(ValueError, match=f"{name}_dataset {message}"):
        data = {"forget_dataset": images(2), "retain_dataset": images(2)}
        UnlearnTrainer(
            tiny_vit(),
            UnlearnConfig(str(tmp_path), use_cpu=True),
            **{**data, f"{name}_dataset": given},
        )


def test_a_value_that_is_neither_a_model_nor_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="model is 'google/vit', but must be a model"):
        UnlearnTrainer("google/vit", UnlearnConfig(str(tmp_path), use_cpu=True))
    for wrong in ({"alpha": "0.5"}, {"check_steps": 2.5}, {"per_device_retain_batch_size": "4"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*, but must be a"):
            UnlearnConfig(str(tmp_path), use_cpu=True, **wrong)


def test_parameters_that_the_loss_does_not_depend_on_train_nothing(tmp_path):
    model = tiny_vit().requires_grad_(False)
    model.unused = torch.nn.Linear(2, 2)
    trainer = make_trainer(model, tmp_path, **IMAGES, optimizer=False)
    with pytest.raises(ValueError, match="the loss depends on none of the parameters"):
        trainer.train()


class Stream(IterableDataset):
    def __iter__(self):
        return itertools.cycle(images(6))


@pytest.mark.parametrize("kind", ["torch", "datasets"])
def test_a_stream_of_forget_samples_is_trained_on_checked_and_reported(tmp_path, kind):
    stream = (
        Stream()
        if kind == "torch"
        else datasets.IterableDataset.from_generator(lambda: iter(images(6)))
    )
    arguments = {"eval_dataset": {"forget": stream, "test": images(2)}}
    trainer = image_trainer(
        tmp_path,
        arguments,
        forget=stream,
        max_steps=2,
        per_device_train_batch_size=3,
        check_steps=1,
        check_samples=2,
        stop_when="forget_loss >= 1000",
    )
    trainer.train()
    assert sum("check_forget_loss" in row for row in trainer.state.log_history) == 3
    trainer.create_model_card()
    trainer.save_model()
    trainer.report().save(tmp_path / "report.html")
    (tmp_path / "staged").mkdir()
    stage(tmp_path, tmp_path / "staged", "me/model", "salt")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["data"]["samples"] == {"retain": 4}


def table(n: int, seed: int = 0) -> datasets.Dataset:
    """Images as rows of lists, with columns that the model does not take."""
    rows = [
        {"pixel_values": row["pixel_values"].tolist(), "labels": int(row["labels"])}
        for row in images(n, seed)
    ]
    return datasets.Dataset.from_list(
        [{**row, "length": 9 - i, "who": "x"} for i, row in enumerate(rows)]
    )


def made(rows: dict) -> dict:
    """The transform that makes rows on access."""
    return {
        "pixel_values": [torch.tensor(x) for x in rows["stored"]],
        "labels": rows["labels"],
        "name": rows["who"],
    }


@pytest.mark.parametrize("remove", [True, False])
def test_rows_that_are_made_on_access_train_as_the_same_rows_stored(tmp_path, remove):
    """Trainer would remove the columns that the rows are made from, and demand
    remove_unused_columns=False."""

    def collator(rows):
        return default_data_collator(
            [{k: v for k, v in row.items() if k in ("pixel_values", "labels")} for row in rows]
        )

    stored = {"forget": table(6), "retain": table(4, 1)}
    access = {
        name: rows.rename_column("pixel_values", "stored").with_transform(made)
        for name, rows in stored.items()
    }
    models = [tiny_vit()]
    models.append(copy.deepcopy(models[0]))
    results = []
    for model, data in zip(models, (stored, access)):
        arguments = {"eval_dataset": {"forget": data["forget"]}}
        trainer = make_trainer(
            model,
            tmp_path,
            **data,
            collator=default_data_collator if remove else collator,
            arguments=arguments,
            max_steps=2,
            remove_unused_columns=remove,
            per_device_train_batch_size=3,
            per_device_retain_batch_size=2,
        )
        trainer.train()
        results.append(
            (
                trainer.evaluate()["eval_forget_loss"],
                trainer.predict(data["retain"]).metrics["test_loss"],
            )
        )
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters()))
    assert results[0] == results[1]


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_the_length_column_decides_the_batches(tmp_path, strategy):
    """It is removed from the rows before Trainer looks for it, and images have no length of their
    own."""
    field = UnlearnConfig.__dataclass_fields__["train_sampling_strategy"]
    if strategy not in field.metadata["choices"]:
        pytest.skip("this version of transformers lacks the strategy")
    trainer = make_trainer(
        tiny_vit(),
        tmp_path,
        table(6),
        table(4, 1),
        collator=default_data_collator,
        max_steps=2,
        per_device_train_batch_size=3,
        per_device_retain_batch_size=2,
        train_sampling_strategy=strategy,
    )
    sampler = None

    def seen(dataset=None):
        nonlocal sampler
        sampler = type(trainer)._get_train_sampler(trainer, dataset)
        return sampler

    trainer._get_train_sampler = seen
    trainer.train()
    assert list(sampler.lengths) == [9, 8, 7, 6, 5, 4]
