"""`Results`: everything that is known about a run, as stored in its results.json."""

import json
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import write_json

RESULTS = "results.json"

# {split: {metric: value}}
Metrics = dict[str, dict[str, Any]]


@dataclass(eq=False)
class Results(MutableMapping[str, Any]):
    """The results of a run. A new run and a results.json both become one of these.

    It is also a mapping: `results["gap"]` is `results.gap`, and `{**results}` is what the file
    holds. Keys without a field (of another version, or of a recipe of your own) are kept in `more`.

    Every file holds the first group of fields, with null for what is unknown. The second group is
    written only where it was measured or applies; until then such a key is missing.
    """

    # The run. `config` holds the settings, flat or in groups; `data` the sizes of the splits.
    config: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    task: str = "speakers"
    seed: int | None = None
    environment: dict | None = None
    command: str | None = None
    # The metrics of each model, by split; `gap` is unlearned minus retrained.
    original: Metrics | None = None
    unlearned: Metrics | None = None
    retrained: Metrics | None = None
    gap: Metrics | None = None
    # When and why training stopped, and the checks by step.
    stopping: dict | None = None
    history: list[dict] | None = None
    # How texts were normalised before they were compared.
    scoring: dict | None = None
    # Grams of CO2 equivalents.
    emissions_g: float | None = None
    # Further arguments of `build_card`.
    card: dict = field(default_factory=dict)

    # Whether metrics are in percent or as given; files of the first version lack it.
    scale: str | None = None
    method_settings: dict | None = None
    # Seconds and peak memory by phase (see `PhaseClock`).
    phases: dict | None = None
    forgotten_before: dict | None = None
    architecture: str | None = None
    processor: list[str] | None = None
    pipeline: str | None = None
    merged: bool | None = None
    # By model: rates for each speaker or class, membership attacks, relearning, scores.
    per_speaker: dict | None = None
    per_class: dict | None = None
    attacks: dict | None = None
    relearning: dict | None = None
    scores: dict | None = None
    # By model: the seconds that its training, or its unlearning with all checks, took.
    training: dict | None = None
    # By split: what the models said, word for word.
    transcripts: dict | None = None
    # The style of transcript that was chosen for training, with the losses that decided it.
    labels: dict | None = None
    # What `hf-unlearn audit` found: see `audit_tables`.
    audit: dict | None = None

    more: dict = field(default_factory=dict)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Results":
        """Results from the content of a results.json, of whichever version."""
        known = {key: value for key, value in given.items() if key in FIELDS}
        # `card` was null or missing before cards had arguments.
        known = {key: value for key, value in known.items() if key != "card" or value}
        return cls(**known, more={key: given[key] for key in given if key not in FIELDS})

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
            given = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if not isinstance(given, dict) or "config" not in given or "data" not in given:
            raise ValueError(
                f"{path} does not belong to a run, because it has no config or data: give the "
                "output_dir of a finished run"
            )
        return cls.from_dict(given)

    def to_dict(self) -> dict[str, Any]:
        """What results.json holds. Values are shared, not copied."""
        return dict(self)

    def write(self, folder: str | Path) -> None:
        """Writes results.json into a folder, atomically."""
        write_json(Path(folder) / RESULTS, self.to_dict())

    def __getitem__(self, key: str) -> Any:
        if key not in FIELDS:
            return self.more[key]
        value = getattr(self, key)
        if value is None and key not in ALWAYS_WRITTEN:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        if key in FIELDS:
            setattr(self, key, value)
        else:
            self.more[key] = value

    def __delitem__(self, key: str) -> None:
        if key in FIELDS:
            setattr(self, key, None)
        else:
            del self.more[key]

    def __iter__(self) -> Iterator[str]:
        present = (n for n in FIELDS if n in ALWAYS_WRITTEN or getattr(self, n) is not None)
        yield from present
        yield from self.more

    def __len__(self) -> int:
        return sum(1 for _ in self)


FIELDS = tuple(one.name for one in fields(Results) if one.name != "more")
ALWAYS_WRITTEN = FIELDS[: FIELDS.index("scale")]
