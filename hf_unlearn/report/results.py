"""`Results`: everything that is known about a run, as stored in its results.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import write_json
from .file_names import RESULTS

# The models that can have metrics; `hf-unlearn evaluate` reports "evaluated" alone.
MODELS = ("original", "unlearned", "retrained", "evaluated")

# {split: {metric: value}}
Metrics = dict[str, dict[str, Any]]


def _always(default: Any = None) -> Any:
    """A field that every file holds, with null for what is unknown. The other fields are written
    only where they were measured or apply."""
    made = {"default_factory": dict} if default is dict else {"default": default}
    return field(**made, metadata={"always": True})


@dataclass(eq=False)
class Results:
    """The results of a run. A new run and a results.json both become one of these.

    Attributes:
        config: the settings, flat or in groups.
        data: the sizes of the splits, and whom they belong to.
        task: key of `TASKS`.
        original, unlearned, retrained: the metrics of each model, by split.
        gap: unlearned minus retrained, by split.
        stopping: when and why training stopped.
        history: the checks by step.
        scoring: how texts were normalised before they were compared.
        emissions_g: grams of CO2 equivalents.
        card: what the user says of the model (`CardFields`).
        scale: whether metrics are in percent or as given.
        method_settings: the values that the method worked with.
        phases: seconds and peak memory by phase (see `PhaseClock`).
        forgotten_before: whom earlier requests made the model forget.
        evaluated: the metrics of a model that was only evaluated, by split.
        per_speaker, per_class, attacks, relearning, scores: further measurements, by model.
        training: by model, the seconds that its training, or its unlearning with all checks, took.
        transcripts: what the models said, word for word, by split.
        labels: the style of transcript that was chosen for training, with the losses that decided
            it.
        audit: what `hf-unlearn audit` found (see `report.audit_ranking`).
        more: keys without a field, of another version or of a recipe of your own.
    """

    config: dict = _always(dict)
    data: dict = _always(dict)
    task: str = _always("speakers")
    seed: int | None = _always()
    environment: dict | None = _always()
    command: str | None = _always()
    original: Metrics | None = _always()
    unlearned: Metrics | None = _always()
    retrained: Metrics | None = _always()
    gap: Metrics | None = _always()
    stopping: dict | None = _always()
    history: list[dict] | None = _always()
    scoring: dict | None = _always()
    emissions_g: float | None = _always()
    card: dict = _always(dict)

    scale: str | None = None
    method_settings: dict | None = None
    phases: dict | None = None
    forgotten_before: dict | None = None
    architecture: str | None = None
    processor: list[str] | None = None
    pipeline: str | None = None
    merged: bool | None = None
    evaluated: Metrics | None = None
    per_speaker: dict | None = None
    per_class: dict | None = None
    attacks: dict | None = None
    relearning: dict | None = None
    scores: dict | None = None
    training: dict | None = None
    transcripts: dict | None = None
    labels: dict | None = None
    audit: dict | None = None

    more: dict = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Results":
        """Results from the content of a results.json."""
        names = {one.name for one in fields(cls)} - {"more"}
        values = {key: value for key, value in content.items() if key in names}
        return cls(**values, more={key: content[key] for key in content if key not in names})

    @classmethod
    def read(cls, folder: str | Path) -> "Results":
        """The results in a run's output folder.

        Raises:
            ValueError: the folder has no results.json, or one that is not a run's.
        """
        path = Path(folder) / RESULTS
        if not path.is_file():
            raise ValueError(f"there is no {path}: give the output_dir of a finished run")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} cannot be read ({error}): give another folder, or run again"
            ) from error
        if not isinstance(content, dict) or "config" not in content or "data" not in content:
            raise ValueError(
                f"{path} does not belong to a run, because it has no config or data: give the "
                "output_dir of a finished run"
            )
        return cls.from_dict(content)

    def to_dict(self) -> dict[str, Any]:
        """What results.json holds. Values are shared, not copied."""
        values = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name != "more"
            and (one.metadata.get("always") or getattr(self, one.name) is not None)
        }
        return {**values, **self.more}

    def models(self) -> dict[str, Metrics]:
        """{model: its metrics by split} of those models that were evaluated."""
        return {name: getattr(self, name) for name in MODELS if getattr(self, name)}

    def write(self, folder: str | Path) -> None:
        """Writes results.json into a folder, atomically."""
        write_json(Path(folder) / RESULTS, self.to_dict())
