"""`Task`: the words, metrics and wanted directions of a report, for each kind of forgetting."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..metrics.metric_names import is_metric
from ..metrics.scales import GIVEN, PERCENT, as_given
from .results import Results


@dataclass(frozen=True)
class Task:
    """What reports need to know about a kind of forgetting.

    Attributes:
        pipeline: name of the task on the Hub and in `pipeline(...)`.
        forgotten: what is forgotten, in the singular.
        group, groups: what a sample belongs to, such as a speaker. The plural is the key in
            `results.data` for the groups of each split.
        units: what samples are called; the key in `results.data` for the size of each split.
        personal: whether the names of what is forgotten must not be published.
        metrics: name -> heading, in the order of the tables. The first is plotted.
        splits: name -> (meaning, wanted direction of the first metric), in the order of the tables.
        percent: whether all metrics except the loss are in percent; if not, they are shown as
            given.
    """

    pipeline: str
    forgotten: str
    group: str
    groups: str
    units: str
    personal: bool
    metrics: dict[str, str]
    splits: dict[str, tuple[str, str]]
    percent: bool = True

    def about(self, split: str) -> tuple[str, str]:
        """(meaning, wanted direction of the first metric) of a split; its name and "" for one of a
        user's own."""
        if number := earlier_number(split):
            # Its own request set this level; later requests must not undo it.
            return f"forgotten by request {number}", "stay"
        return self.splits.get(split, (split, ""))

    def in_order(self, splits: Iterable[str]) -> list[str]:
        """Splits in the order of the tables."""
        present = set(splits)
        task_splits = [split for split in self.splits if split in present]
        return task_splits + sorted(
            present - set(task_splits), key=lambda split: (earlier_number(split) or 0, split)
        )

    def wanted(self, split: str, metric: str) -> str:
        """The direction that is wanted of a metric: the loss rises where the accuracy falls."""
        if metric == "loops":
            return "down"
        _, wish = self.about(split)
        opposite = metric == "loss" and "accuracy" in self.metrics
        return {"up": "down", "down": "up"}.get(wish, wish) if opposite else wish

    def text(self, metric: str, value: float) -> str:
        """A metric's value as text."""
        if metric == "loss":
            return f"{value:.3f}"
        return f"{value:.1f}" if self.percent else as_given(value)


ERROR_RATES = {"wer": "WER (%)", "cer": "CER (%)", "loops": "Loops (%)", "loss": "Loss"}
ACCURACY = {"accuracy": "Accuracy (%)", "loss": "Loss"}
ACCURACY_F1 = {"accuracy": "Accuracy (%)", "f1_macro": "Macro F1 (%)", "loss": "Loss"}
KEPT_SPLITS = {
    "retain": ("retain set", "stay"),
    "retain_rest": ("retained, outside the retain set", "stay"),
}
# What the splits of every recipe hold, for a table or plot of runs of any task.
SPLITS = {
    "forget": "forgotten, trained on",
    "forget_test": "forgotten, unseen",
    "retain": "retained, trained on",
    "test": "retained, unseen",
}

TASKS = {
    "speakers": Task(
        pipeline="automatic-speech-recognition",
        forgotten="speaker",
        group="speaker",
        groups="speakers",
        units="utterances",
        personal=True,
        metrics=ERROR_RATES,
        splits={
            "forget": ("forgotten speaker", "up"),
            "forget_test": ("forgotten speaker, unseen", "up"),
            **KEPT_SPLITS,
            "test": ("retained speakers, unseen", "stay"),
            "other": ("other speakers", "stay"),
        },
    ),
    "classes": Task(
        pipeline="image-classification",
        forgotten="class",
        group="class",
        groups="classes",
        units="images",
        personal=False,
        metrics=ACCURACY,
        splits={
            "forget": ("forgotten class", "down"),
            "forget_test": ("forgotten class, unseen", "down"),
            **KEPT_SPLITS,
            "test": ("retained classes, unseen", "stay"),
        },
    ),
    "samples": Task(
        pipeline="image-classification",
        forgotten="image",
        group="class",
        groups="classes",
        units="images",
        personal=False,
        metrics=ACCURACY,
        splits={
            "forget": ("forgotten images", "as test"),
            **KEPT_SPLITS,
            "test": ("unseen images", "stay"),
        },
    ),
    # A classifier of what is said, such as keywords and intents, forgets a speaker's utterances.
    "speaker_data": Task(
        pipeline="audio-classification",
        forgotten="speaker",
        group="speaker",
        groups="speakers",
        units="utterances",
        personal=True,
        metrics=ACCURACY_F1,
        splits={
            "forget": ("forgotten speaker", "as retrained"),
            "forget_test": ("forgotten speaker, unseen", "as retrained"),
            **KEPT_SPLITS,
            "test": ("retained speakers, unseen", "stay"),
            "other": ("other speakers", "stay"),
        },
    ),
    # A classifier of speakers forgets one: its classes are the speakers.
    "speaker_classes": Task(
        pipeline="audio-classification",
        forgotten="speaker",
        group="speaker",
        groups="speakers",
        units="utterances",
        personal=True,
        metrics=ACCURACY_F1,
        splits={
            "forget": ("forgotten speaker", "down"),
            "forget_test": ("forgotten speaker, unseen", "down"),
            **KEPT_SPLITS,
            "test": ("retained speakers, unseen", "stay"),
        },
    ),
    "utterance_classes": Task(
        pipeline="audio-classification",
        forgotten="class",
        group="class",
        groups="classes",
        units="utterances",
        personal=False,
        metrics=ACCURACY_F1,
        splits={
            "forget": ("forgotten class", "down"),
            "forget_test": ("forgotten class, unseen", "down"),
            **KEPT_SPLITS,
            "test": ("retained classes, unseen", "stay"),
        },
    ),
    "utterance_samples": Task(
        pipeline="audio-classification",
        forgotten="utterance",
        group="class",
        groups="classes",
        units="utterances",
        personal=False,
        metrics=ACCURACY_F1,
        splits={
            "forget": ("forgotten utterances", "as test"),
            **KEPT_SPLITS,
            "test": ("unseen utterances", "stay"),
        },
    ),
    # A trainer without a recipe knows only its data and the metrics of its compute_metrics.
    "data": Task(
        pipeline="",
        forgotten="sample",
        group="sample",
        groups="",
        units="samples",
        personal=False,
        metrics=ERROR_RATES | ACCURACY,
        splits={
            "forget": ("forgotten samples", ""),
            "retain": ("retain set", "stay"),
            "test": ("unseen samples", "stay"),
            # An eval_dataset that is not a dict: it is unknown whose samples these are.
            "evaluation": ("evaluation set", ""),
        },
    ),
}


def earlier_number(split: str) -> int | None:
    """The number of the request that made the model forget a split's samples, for "earlier_3"; None
    for other splits."""
    match = re.fullmatch(r"earlier_(\d+)", split)
    return int(match[1]) if match else None


def metric_of(name: str) -> str:
    """The metric in <split>_<metric>, for the splits of recipes: forget_test_f1_macro -> f1_macro.
    Of another split, what follows the last underscore."""
    name = re.sub(r"^earlier_(\d+_)?", "forget_", name)
    splits = {split for task in TASKS.values() for split in task.splits}
    fitting = [split for split in splits if name.startswith(f"{split}_")]
    return name.removeprefix(f"{max(fitting, key=len)}_") if fitting else name.rpartition("_")[2]


def score_label(name: str, percent: bool) -> str:
    """A score of any task in words: test_wer -> "WER (%) on test (retained, unseen)".

    Args:
        percent: whether scores are in percent; if not, they are as the model's metrics give them.
    """
    metric = metric_of(name)
    split = name.removesuffix(f"_{metric}")
    heading = (ERROR_RATES | ACCURACY_F1).get(metric, metric)
    meaning = f" ({SPLITS[split]})" if split in SPLITS else ""
    return f"{heading if percent else heading.removesuffix(' (%)')} on {split}{meaning}"


def task_of(results: Results) -> Task:
    """The task of a run, from its results.

    Without `results.scale`, the metrics of a recipe are in percent. A metric that `results.scoring`
    names comes first, such as the CER of a language that is written without spaces.
    """
    task = TASKS[results.task]
    leading = (results.scoring or {}).get("leads")
    if leading in task.metrics:
        task = replace(task, metrics={leading: task.metrics[leading], **task.metrics})
    if results.pipeline is not None:
        task = replace(task, pipeline=results.pipeline)
    without_recipe = results.task == "data"
    percent = (results.scale or (GIVEN if without_recipe else PERCENT)) == PERCENT
    if percent and not without_recipe:
        return task
    return replace(task, percent=percent, metrics=_measured(task, results, percent))


def _measured(task: Task, results: Results, percent: bool) -> dict[str, str]:
    """Name -> heading of the metrics in `results`, including those of a user's compute_metrics.

    If nothing was measured, the task's metrics.
    """
    splits = [values for model in results.models().values() for values in model.values()]
    names = list(
        dict.fromkeys(
            name
            for values in splits
            for name, value in values.items()
            if is_metric(name, value, values)
        )
    )
    task_metrics = [name for name in task.metrics if name in names and name != "loss"]
    others = [name for name in names if name not in task.metrics]
    headings = (
        task.metrics
        if percent
        else {name: text.removesuffix(" (%)") for name, text in task.metrics.items()}
    )
    shown = [*task_metrics, *others, *(["loss"] if "loss" in names else [])] or list(task.metrics)
    return {name: headings.get(name, name) for name in shown}
