"""What is forgotten decides the words, the metrics and the wanted directions of every report: one
entry for each kind."""

import math
from dataclasses import dataclass, replace

from ..metrics.scales import GIVEN, PERCENT, as_given

# the last of `hf-unlearn evaluate`, alone
MODELS = ("original", "unlearned", "retrained", "evaluated")
# What evaluation logs beside metrics, and what recipes count.
NO_METRICS = {
    *("samples", "epoch", "runtime", "samples_per_second", "steps_per_second"),
    *("jit_compilation_time", "model_preparation_time"),
}
MEMORY = ("mem_", "init_mem_")  # with skip_memory_metrics=False


@dataclass(frozen=True)
class Task:
    """What reports have to know.

    pipeline: the task's name on the Hub and in `pipeline(...)`.
    forgotten: what is forgotten, in the singular.
    group, groups: of whom or what a sample is; the plural is the key in `results["data"]` of those
        of each split.
    units: what samples are; the key in `results["data"]` of how many each split has.
    personal: whether the names of what is forgotten must not be published.
    metrics: name -> heading, in the order of the tables; the first is plotted.
    splits: name -> (meaning, what one wants of the first metric), in the order of the tables.
    percent: whether all metrics but the loss are in percent; else they are shown as given.
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

    def wanted(self, split: str, metric: str) -> str:
        """Which way a metric is wanted to go; the loss goes up where the accuracy goes down."""
        _, wish = self.splits.get(split, (split, ""))
        opposite = metric == "loss" and "accuracy" in self.metrics
        return {"up": "down", "down": "up"}.get(wish, wish) if opposite else wish

    def text(self, metric: str, value: float) -> str:
        """A value of a metric, for tables."""
        if metric == "loss":
            return f"{value:.3f}"
        return f"{value:.1f}" if self.percent else as_given(value)


ERROR_RATES = {"wer": "WER (%)", "cer": "CER (%)", "loss": "Loss"}
ACCURACY = {"accuracy": "Accuracy (%)", "loss": "Loss"}

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
            "forget_test": ("forgotten speaker, held out", "up"),
            "retain": ("retain set", "stay"),
            "retain_rest": ("retained, outside of the retain set", "stay"),
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
            "retain": ("retain set", "stay"),
            "retain_rest": ("retained, outside of the retain set", "stay"),
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
            "retain": ("retain set", "stay"),
            "retain_rest": ("retained, outside of the retain set", "stay"),
            "test": ("unseen images", "stay"),
        },
    ),
    # What a trainer outside of the recipes knows: its data, and the metrics of its own
    # compute_metrics.
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
            # One eval_dataset that is no dict: nobody says whose samples these are.
            "evaluation": ("evaluation set", ""),
        },
    ),
}


def task_of(results: dict) -> Task:
    """The task of a run, from its results.json; those of the first version know speakers only, and
    percent only.

    The metric that `results["scoring"]` names comes first: the CER of a language that is written
    without spaces.
    """
    task = TASKS[results.get("task", "speakers")]
    leads = (results.get("scoring") or {}).get("leads")
    if leads in task.metrics:
        task = replace(task, metrics={leads: task.metrics[leads], **task.metrics})
    task = replace(task, pipeline=results.get("pipeline", task.pipeline))
    own = task.units == "samples"  # a trainer outside of the recipes
    percent = results.get("scale", GIVEN if own else PERCENT) == PERCENT
    if percent and not own:
        return task
    return replace(task, percent=percent, metrics=_measured(task, results, percent))


def _measured(task: Task, results: dict, percent: bool) -> dict[str, str]:
    """Name -> heading of the metrics in `results`, a user's own among them; those of the task where
    there are none."""
    splits = [values for model in MODELS for values in (results.get(model) or {}).values()]
    names = list(
        dict.fromkeys(
            name for values in splits for name, x in values.items() if is_metric(name, x, values)
        )
    )
    known = [name for name in task.metrics if name in names and name != "loss"]
    own = [name for name in names if name not in task.metrics]
    headings = (
        task.metrics
        if percent
        else {name: text.removesuffix(" (%)") for name, text in task.metrics.items()}
    )
    shown = [*known, *own, *(["loss"] if "loss" in names else [])] or list(task.metrics)
    return {name: headings.get(name, name) for name in shown}


def is_metric(name: str, value, among) -> bool:
    """Whether an entry of an evaluation is a metric with a number, and no time, count or end of an
    interval."""
    stem, _, end = name.rpartition("_")
    if name in NO_METRICS or name.startswith(MEMORY) or end in ("low", "high") and stem in among:
        return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def finite(value) -> bool:
    return value is not None and math.isfinite(value)
