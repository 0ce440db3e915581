"""What is forgotten decides the words, the metrics and the wanted directions of every report: one entry for each kind."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Task:
    """What reports have to know.

    pipeline: the task's name on the Hub and in `pipeline(...)`.
    forgotten: what is forgotten, in the singular.
    group, groups: of whom or what a sample is; the plural is the key in `results["data"]` of those of each split.
    units: what samples are; the key in `results["data"]` of how many each split has.
    personal: whether the names of what is forgotten must not be published.
    metrics: name -> heading, in the order of the tables; the first is plotted. All but loss are in percent.
    splits: name -> (meaning, what one wants of the first metric), in the order of the tables.
    """

    pipeline: str
    forgotten: str
    group: str
    groups: str
    units: str
    personal: bool
    metrics: dict[str, str]
    splits: dict[str, tuple[str, str]]

    def wanted(self, split: str, metric: str) -> str:
        """Which way a metric is wanted to go; the loss goes up where the accuracy goes down."""
        _, wish = self.splits.get(split, (split, ""))
        opposite = metric == "loss" and "accuracy" in self.metrics
        return {"up": "down", "down": "up"}.get(wish, wish) if opposite else wish


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
    # What a trainer outside of the recipes knows: its data, and the metrics of its own compute_metrics.
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
        },
    ),
}


def task_of(results: dict) -> Task:
    """The task of a run, from its results.json; those of the first version know speakers only.

    The metric that `results["scoring"]` names comes first: the CER of a language that is written without spaces.
    """
    task = TASKS[results.get("task", "speakers")]
    leads = (results.get("scoring") or {}).get("leads")
    if leads in task.metrics:
        task = replace(task, metrics={leads: task.metrics[leads], **task.metrics})
    return replace(task, pipeline=results["pipeline"]) if "pipeline" in results else task
