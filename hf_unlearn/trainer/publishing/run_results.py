"""What a trainer knows of its own run, in the form of results.json: functions of explicit values,
from which `publisher` puts the results together."""

import contextlib
from collections.abc import Iterator
from typing import Any

import datasets
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...hub.metadata import local_among
from ...models import base_model
from ..batches.training_data import length_or_none

TASK_OF_HEAD = {
    "ForCTC": "automatic-speech-recognition",
    "ForSpeechSeq2Seq": "automatic-speech-recognition",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
# For heads that models of several modalities have.
TASK_OF_INPUT = {
    ("ForConditionalGeneration", "input_features"): "automatic-speech-recognition",
    ("ForSequenceClassification", "input_values"): "audio-classification",
    ("ForSequenceClassification", "input_features"): "audio-classification",
    ("ForSequenceClassification", "input_ids"): "text-classification",
}


# Numbers the datasets that `evaluate` was given without a name, in entries of the log.
EVALUATION_SET = "evaluation_set"


class EvaluationSets:
    """Tells the unnamed datasets of evaluations apart, so that a report does not take the numbers
    of one for those of another.

    Args:
        dataset: the trainer's eval_dataset.
    """

    def __init__(self, dataset: Any):
        self._known = [] if dataset is None or isinstance(dataset, dict) else [dataset]
        # The number of the dataset that is being evaluated.
        self._current = 1

    @contextlib.contextmanager
    def evaluating(self, dataset: Any, prefix: str) -> Iterator[None]:
        """The context of an evaluation, by the arguments of `Trainer.evaluate`."""
        unnamed = prefix == "eval" and not isinstance(dataset, str | dict | None)
        self._current = self.number(dataset) if unnamed else 1
        try:
            yield
        finally:
            self._current = 1

    def with_number(self, logs: dict) -> dict:
        """A log entry, with the number of the dataset unless it is the first."""
        return {**logs, EVALUATION_SET: self._current} if self._current > 1 else logs

    def number(self, dataset: Any) -> int:
        """1 for the trainer's own dataset, or else the first one; 2 for the next, and so on."""
        for number, evaluated in enumerate(self._known, start=1):
            if evaluated is dataset or _same_rows(evaluated, dataset):
                return number
        self._known.append(dataset)
        return len(self._known)


def _same_rows(one: Any, other: Any) -> bool:
    rows = isinstance(one, datasets.Dataset) and isinstance(other, datasets.Dataset)
    return rows and one._fingerprint == other._fingerprint


class EvaluatedBefore(TrainerCallback):
    """Keeps the evaluations from before the first step, though Trainer empties its history at the
    start of each training.

    The card needs them for its column on the original model, also after resuming and after a second
    training.
    """

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def remember(self, history: list[dict]) -> None:
        """Called before each training, with `TrainerState.log_history`."""
        # in a second training the history holds the rows already
        if not any(row["step"] for row in history):
            self.rows = [row for row in history if any(map(is_evaluation, row))]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        at_start = (row for row in state.log_history if row["step"] == 0)
        if not any(any(map(is_evaluation, row)) for row in at_start):
            state.log_history[:0] = self.rows


def describe_model(model: nn.Module) -> dict:
    """The class and task of a model, and where it was loaded from."""
    whole = base_model(model)
    # modules of the user's own have no config
    name = getattr(getattr(whole, "config", None), "_name_or_path", None)
    return {
        "architecture": type(whole).__name__,
        "pipeline": pipeline_of(whole),
        "card": {"base_model": name or None, "local": local_among(name)},
    }


def adapter_settings(model: nn.Module) -> dict:
    """The kind of adapter, under the names that recipes give to LoRA's settings; {} without one."""
    if not isinstance(model, PeftModel):
        return {}
    config = model.active_peft_config
    settings = {"adapter": config.peft_type.value}
    if isinstance(config, LoraConfig):
        modules = config.target_modules
        settings |= {
            "lora_r": config.r,
            "lora_alpha": config.lora_alpha,
            "lora_target_modules": modules if isinstance(modules, str) else sorted(modules or ()),
        }
    return settings


def pipeline_of(model: nn.Module) -> str:
    """The Hub's name for the task of a transformers model; "" if its class does not tell."""
    name, main_input = type(model).__name__, getattr(model, "main_input_name", None)
    tasks = [task for head, task in TASK_OF_HEAD.items() if name.endswith(head)]
    tasks += [
        task
        for (head, reads), task in TASK_OF_INPUT.items()
        if name.endswith(head) and main_input == reads
    ]
    return tasks[0] if tasks else ""


def sample_counts(forget_dataset: Any, retain_dataset: Any) -> dict[str, int]:
    """The number of samples of each split that has a length."""
    splits = {"forget": forget_dataset, "retain": retain_dataset}
    sizes = {split: length_or_none(data) for split, data in splits.items()}
    return {split: size for split, size in sizes.items() if size is not None}


def evaluations_by_step(history: list[dict], eval_dataset: Any) -> dict[int, dict]:
    """What `evaluate` has logged, by the step whose weights it evaluated.

    Args:
        history: `TrainerState.log_history`.

    Returns:
        {step: {split: {metric: value}}}; a single unnamed dataset is the split "evaluation", and
        others that `evaluate` was given without a name are "evaluation 2" and so on.
    """
    splits = sorted(eval_dataset, key=len, reverse=True) if isinstance(eval_dataset, dict) else []
    evaluations: dict[int, dict] = {}
    for row in history:
        for key, value in row.items():
            if is_evaluation(key):
                split = next(
                    (split for split in splits if key.startswith(f"eval_{split}_")),
                    _split_of_prefix(row),
                )
                metric = key.removeprefix(f"eval_{split}_" if split else "eval_")
                step, unnamed = row.get("weights_step", row["step"]), "evaluation"
                if (number := row.get(EVALUATION_SET, 1)) > 1:
                    unnamed = f"evaluation {number}"
                evaluations.setdefault(step, {}).setdefault(split or unnamed, {})[metric] = value
    return evaluations


def is_evaluation(key: str) -> bool:
    """Whether a key of a log entry is a metric that `evaluate` logged."""
    return key.startswith("eval_")


def _split_of_prefix(row: dict) -> str | None:
    """The split of an entry logged by `evaluate(data, metric_key_prefix="eval_other")`, recognised
    by its eval_other_runtime; None without such a prefix."""
    timed = [
        key.removesuffix("_runtime")
        for key in row
        if is_evaluation(key) and key.endswith("_runtime")
    ]
    return timed[0].removeprefix("eval").removeprefix("_") or None if len(timed) == 1 else None
