"""Mistakes in arguments and data are reported in one line at construction; datasets that Trainer
accepts work."""

import copy
import itertools
import json

import datasets
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch.utils.data import IterableDataset
from transformers import EvalPrediction, default_data_collator

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.evaluation import asr_metrics, classification_metrics
from hf_unlearn.experiments.speech.tiny_whisper import build_processor, build_word_tokenizer
from hf_unlearn.hub.staging import stage
from tests.support.tiny import (
    FORGET,
    collate,
    collate_images,
    images,
    make_trainer,
    tiny_vit,
    tiny_whisper,
)

IMAGES = {"forget": images(6), "retain": images(4, seed=1), "collator": collate_images}
SPLITS = {"forget": images(3), "test": images(2)}


def image_trainer(tmp_path, arguments=None, **config):
    config = {"per_device_train_batch_size": 3, "optimizer": False, **config}
    return make_trainer(tiny_vit(), tmp_path, **{**IMAGES, "arguments": arguments, **config})


# ---- data ----------------------------------------------------------------------------------------


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
        ("data.csv", "is 'data.csv', which is no dataset"),
        ({"train": images(2)}, "has the keys train, but must be one dataset"),
        (iter(images(2)), "is a list_iterator, which can be read only once"),
    ],
)
@pytest.mark.parametrize("name", ["forget", "retain"])
def test_what_is_no_dataset_is_refused(tmp_path, name, given, message):
    with pytest.raises(ValueError, match=f"{name}_dataset {message}"):
        data = {"forget_dataset": images(2), "retain_dataset": images(2)}
        UnlearnTrainer(
            tiny_vit(),
            UnlearnConfig(str(tmp_path), use_cpu=True),
            **{**data, f"{name}_dataset": given},
        )


def test_what_is_no_model_and_no_number_is_refused(tmp_path):
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
    given = {"eval_dataset": {"forget": stream, "test": images(2)}}
    trainer = image_trainer(
        tmp_path,
        given,
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


# ---- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule, message",
    [
        ("forget_loss is high", "cannot read the rule"),
        ("forgotten_loss >= 3", "names no split of eval_dataset"),
        ("forget_acuracy <= 5", "evaluation will give .*forget_accuracy,"),
        ("empty_loss >= 3", "which is empty"),
        ("forget_loss >= test_accurate", "names 'test_accurate'"),
    ],
)
@pytest.mark.parametrize("option", ["stop_when", "abort_when"])
def test_a_rule_that_can_never_hold_is_refused_at_construction(tmp_path, option, rule, message):
    given = {"eval_dataset": {**SPLITS, "empty": []}, "compute_metrics": classification_metrics}
    with pytest.raises(ValueError, match=message):
        image_trainer(tmp_path, given, **{option: rule})


def test_without_compute_metrics_evaluation_gives_only_the_loss(tmp_path):
    with pytest.raises(ValueError, match="evaluation will give forget_loss"):
        image_trainer(tmp_path, {"eval_dataset": SPLITS}, stop_when="forget_accuracy <= 5")
    own = {"eval_dataset": SPLITS, "compute_metrics": lambda evaluated: {"f1": 1.0}}
    # whose names are unknown before it is called
    image_trainer(tmp_path, own, stop_when="forget_f1 <= 0.5")


def test_metrics_declare_their_names():
    logits, labels = torch.eye(3).numpy(), torch.arange(3).numpy()
    assert set(classification_metrics(EvalPrediction(logits, labels))) == set(
        classification_metrics.metric_names
    )


# ---- evaluation ----------------------------------------------------------------------------------


@pytest.fixture
def words():
    return build_processor(build_word_tokenizer(["one two"]), 1)


def test_texts_are_compared_only_where_texts_are_generated(tmp_path, words):
    metrics = {"compute_metrics": asr_metrics(words), "eval_dataset": {"forget": FORGET}}
    with pytest.raises(ValueError, match="WhisperFor.*: set predict_with_generate to True"):
        make_trainer(tiny_whisper(), tmp_path, arguments=metrics)
    make_trainer(tiny_whisper(), tmp_path, arguments=metrics, predict_with_generate=True)
    reduced = {**metrics, "preprocess_logits_for_metrics": lambda logits, _: logits[0].argmax(-1)}
    make_trainer(tiny_whisper(), tmp_path, arguments=reduced)
    with pytest.raises(ValueError, match="but ViTForImageClassification cannot generate"):
        image_trainer(tmp_path, {"eval_dataset": SPLITS}, predict_with_generate=True)


@pytest.mark.parametrize(
    "named, fits",
    [("test_accuracy", True), ("eval_forget_loss", True), ("loss", False), (None, False),
     ("accuracy", False), ("eval_test_acuracy", False)],
)  # fmt: skip
def test_a_best_model_needs_a_metric_that_evaluation_gives(tmp_path, named, fits):
    given = {"eval_dataset": SPLITS, "compute_metrics": classification_metrics}
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    options = {**best, "eval_steps": 1, "save_steps": 1, "metric_for_best_model": named}
    if fits:
        image_trainer(tmp_path, given, **options)
        return
    with pytest.raises(ValueError, match="evaluation will give eval_forget_accuracy, .*eval_test_"):
        image_trainer(tmp_path, given, **options)
    if named:
        # a single eval set, or metrics whose names are unknown
        single = {**given, "eval_dataset": images(2)}
        if named in ("loss", "accuracy"):
            image_trainer(tmp_path, single, **options)
        own = {"eval_dataset": SPLITS, "compute_metrics": lambda evaluated: {}}
        if named == "eval_test_acuracy":
            image_trainer(tmp_path, own, **options)


# ---- adapters ------------------------------------------------------------------------------------


def test_an_adapter_that_fits_no_layer_is_answered_with_the_layers_there_are(tmp_path):
    for wanted in (["q_prj"], "q_prj", ["nothing_like_it"]):
        with pytest.raises(
            ValueError, match="target_modules is .*names no layer.*q_proj"
        ) as raised:
            image_trainer(tmp_path, {"peft_config": LoraConfig(target_modules=wanted)})
        assert "\n" not in str(raised.value)


def test_target_modules_cannot_be_whole_blocks(tmp_path):
    """peft's own message ends with a dump of the module."""
    with pytest.raises(ValueError, match="names no layer") as raised:
        image_trainer(tmp_path, {"peft_config": LoraConfig(target_modules=["attention"])})
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "make, data, reads", [(tiny_whisper, {}, "input_features"), (tiny_vit, IMAGES, "pixel_values")]
)
@pytest.mark.parametrize("task", ["SEQ_2_SEQ_LM", "CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION"])
def test_task_types_are_for_models_that_read_token_ids(tmp_path, make, data, reads, task):
    """Otherwise the first step fails with "multiple values for keyword argument 'input_ids'"."""
    config = LoraConfig(task_type=task, target_modules=["q_proj", "v_proj"])
    with pytest.raises(
        ValueError, match=f"task_type='{task}' .*reads {reads}: leave task_type out"
    ):
        make_trainer(make(), tmp_path, **data, optimizer=False, arguments={"peft_config": config})


def test_a_model_with_such_an_adapter_is_refused_too(tmp_path):
    model = get_peft_model(
        tiny_whisper(), LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q_proj"])
    )
    with pytest.raises(ValueError, match="leave task_type out"):
        make_trainer(model, tmp_path, optimizer=False)


def test_learned_prompts_are_for_models_that_read_token_ids(tmp_path):
    config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="PROMPT_TUNING .*reads input_features: use a LoraConfig"):
        make_trainer(tiny_whisper(), tmp_path, optimizer=False, arguments={"peft_config": config})


# ---- columns -------------------------------------------------------------------------------------


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
    found = []
    for model, data in zip(models, (stored, access)):
        given = {"eval_dataset": {"forget": data["forget"]}}
        trainer = make_trainer(
            model,
            tmp_path,
            **data,
            collator=default_data_collator if remove else collator,
            arguments=given,
            max_steps=2,
            remove_unused_columns=remove,
            per_device_train_batch_size=3,
            per_device_retain_batch_size=2,
        )
        trainer.train()
        found.append(
            (
                trainer.evaluate()["eval_forget_loss"],
                trainer.predict(data["retain"]).metrics["test_loss"],
            )
        )
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters()))
    assert found[0] == found[1]


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_the_length_column_decides_the_batches(tmp_path, strategy):
    """It is removed from the rows before Trainer looks for it, and images have no length of their
    own."""
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
