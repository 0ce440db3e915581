"""`Door`: one way to probe what a model still knows. `Subject`: a model to probe."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel

from ...report.tasks import TASKS
from ..recipe import Recipe
from .examiner import Examiner, SpeechExaminer
from .gaps import Finding
from .settings import AuditSettings

if TYPE_CHECKING:
    from ..speech.recogniser import RecogniserRecipe


class DoorUnavailable(Exception):
    """This door cannot be measured for this run; the message says why."""


# What may have been forgotten (`Recipe.task`), by what kind of model.
RECOGNISERS = ("speakers",)
OF_SPEECH = tuple(name for name, task in TASKS.items() if task.units == "utterances")
ANY_TASK = tuple(name for name in TASKS if name != "data")


@dataclass
class Subject:
    """One model of a run.

    Attributes:
        name: "original", "unlearned" or "retrained".
        model: in float32, with an adapter merged. Doors must not change it: see `copy`.
        examiner: asks models what they know.
        recipe: of the run, with its data and processor.
        settings: of the audit.
        folder: where the model is saved, or its Hub id.
        subjects: all models of the run, by name.
    """

    name: str
    model: PreTrainedModel
    examiner: Examiner
    recipe: Recipe
    settings: AuditSettings
    folder: str | None = None
    subjects: Mapping[str, "Subject"] = field(default_factory=dict, repr=False)
    _features: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    @property
    def original(self) -> "Subject":
        """The original model, for its generation settings."""
        return self.subjects["original"]

    @property
    def retrained(self) -> "Subject | None":
        """The retrained model, for distances to it; None without one."""
        return self.subjects.get("retrained")

    def copy(self) -> PreTrainedModel:
        """A copy of the model, in evaluation mode, which a door may change."""
        return copy.deepcopy(self.model).eval()

    def features(self, split: str) -> dict[str, np.ndarray]:
        """The features of each sample of a split that attacks use; computed once.

        Raises:
            DoorUnavailable: there is no such split.
        """
        if split not in self.examiner.splits:
            raise DoorUnavailable(f"there is no split {split}")
        if split not in self._features:
            rows = self.examiner.splits[split]
            self._features[split] = self.examiner.features(self.model, rows)
        return self._features[split]

    @property
    def is_adapter(self) -> bool:
        return bool(self.folder) and (Path(self.folder) / "adapter_config.json").is_file()


class SpeechSubject(Subject):
    """One model of a run that forgets speakers: what doors for `RECOGNISERS` measure."""

    examiner: SpeechExaminer
    recipe: "RecogniserRecipe"


def subject_of(recipe: Recipe) -> type[Subject]:
    """The class of the subjects of a run."""
    return SpeechSubject if recipe.task in RECOGNISERS else Subject


@dataclass(frozen=True)
class Door:
    """One way to reach what a model may still know of the forgotten samples.

    Attributes:
        name: its key in audit.json.
        group: "form", "decoding", "relearning", "attack" or "standing out".
        meaning: what the door does and what its number says, in one sentence.
        measure: measures one subject, a `SpeechSubject` if `tasks` are `RECOGNISERS`; raises
            DoorUnavailable if this run cannot be measured.
        tasks: what must have been forgotten (`Recipe.task`).
        unavailable_reason: why this door does not apply to other tasks.
        settings: the names in AuditSettings that its values depend on, besides max_samples: it is
            measured again only if one of these has changed. None: all of them.
        combine: for doors whose value depends on several models: turns the findings of all models
            into the final ones.
    """

    name: str
    group: str
    meaning: str
    measure: Callable[[Any], Finding]
    tasks: tuple[str, ...] = ANY_TASK
    unavailable_reason: str = ""
    settings: tuple[str, ...] | None = None
    combine: Callable[[dict[str, Finding]], dict[str, Finding]] | None = None
