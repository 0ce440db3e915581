"""What a forget set may say to the trainer besides giving its samples."""

from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class SaysWhetherItChanges(Protocol):
    """A forget set that says whether its samples are new each time they are read.

    Attributes:
        changes_each_time: whether they are. The trainer then keeps none of their frozen outputs.
    """

    changes_each_time: bool


@runtime_checkable
class CutsWindows(Protocol):
    """A forget set that cuts its samples, for `forget_objective="silence"`."""

    def windows_of(self, batch: dict, generator: torch.Generator) -> dict:
        """A batch of retain samples that are cut in the same way. The trainer asks for them where
        it keeps the retain samples from falling silent: a model that has only seen forget samples
        cut could learn to be silent where a sample is cut.

        Args:
            generator: chooses each window.
        """


def changes_each_time(dataset: Any) -> bool:
    """Whether a dataset says that its samples are new each time they are read."""
    return isinstance(dataset, SaysWhetherItChanges) and dataset.changes_each_time
