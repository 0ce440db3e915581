"""The metrics of an unlearned model in the two forms that the Hub's leaderboards read."""

from collections.abc import Iterable

from huggingface_hub import EvalResult, EvalResultEntry

from ..metrics.metric_names import finite
from ..privacy.paths import without_paths
from ..report.results import Results
from ..report.tasks import Task, task_of


def reported_metrics(splits: dict[str, dict], task: Task) -> list[str]:
    """The measured metrics except the loss and looping outputs: rates, or those of a user's
    compute_metrics."""
    return [
        name
        for name in task.metrics
        if name not in ("loss", "loops") and any(name in values for values in splits.values())
    ]


def model_index(
    splits: dict[str, dict],
    task: Task,
    hub_datasets: list[str],
    dataset_names: list[str],
    dataset_args: Iterable[str],
) -> list[EvalResult]:
    """Entries for the model-index in the card's metadata."""
    name = next(iter([*dataset_names, *hub_datasets]), f"local {task.units}")
    folder = {"images": "imagefolder", "utterances": "audiofolder"}.get(task.units, "local")
    return [
        EvalResult(
            task_type=task.pipeline or "other",
            dataset_type=hub_datasets[0] if hub_datasets else folder,
            dataset_name=f"{name}: {_meaning(split, task)}",
            dataset_split=split,
            dataset_args=", ".join(map(without_paths, dataset_args)) or None,
            metric_type=metric,
            metric_name=task.metrics[metric],
            metric_value=value,
        )
        for split, metric, value in _measured(splits, task)
    ]


def evaluations(results: Results, hub_datasets: list[str]) -> list[EvalResultEntry]:
    """Entries for `.eval_results`, which belong to a dataset on the Hub; none without one.

    The splits are those of unlearning, not the dataset's own, and a note at each entry says so.
    """
    task, splits = task_of(results), results.unlearned or {}
    if not hub_datasets:
        return []
    return [
        EvalResultEntry(
            dataset_id=hub_datasets[0],
            task_id=f"{split}_{metric}",
            value=value,
            date=(results.environment or {}).get("date"),
            notes=f"{task.metrics[metric]} of a split made for unlearning: {_meaning(split, task)}"
            + (f", {splits[split]['samples']} {task.units}" if "samples" in splits[split] else ""),
        )
        for split, metric, value in _measured(splits, task)
    ]


def _measured(splits: dict[str, dict], task: Task) -> list[tuple[str, str, float]]:
    """(split, metric, rounded value) of everything that is reported."""
    digits = 2 if task.percent else 4
    return [
        (split, metric, round(values[metric], digits))
        for split, values in splits.items()
        for metric in reported_metrics(splits, task)
        if finite(values.get(metric))
    ]


def _meaning(split: str, task: Task) -> str:
    return task.about(split)[0]
