"""The retain batch of one optimizer step."""

from dataclasses import dataclass

from torch import Tensor

from ...methods.base import RowRoles
from ..samples.retain_rows import RetainRows


@dataclass(frozen=True)
class RetainStep:
    """What `TrainerStep` offers once the retain batch is drawn.

    Attributes:
        batch: the retain samples of this process, and those that are only constraints.
        gradients: runs the passes over them.
        rows, all_samples: as in `methods.base.Step`.
        earlier, all_earlier: how many of the constraints are samples of earlier requests, on this
            process and on all together.
        processes: the number of processes.
    """

    batch: dict
    gradients: RetainRows
    rows: RowRoles
    all_samples: int
    earlier: int
    all_earlier: int
    processes: int

    @property
    def samples(self) -> int:
        """The number of this process's retain samples."""
        return self.gradients.retained

    @property
    def weight(self) -> float:
        """The `retain_weight` of `methods.base.Step`."""
        return self.samples * self.processes / self.all_samples

    @property
    def losses(self) -> Tensor | None:
        """The losses (k,) of this process's samples, as the step's own pass has shown them; None if
        that pass does not give them."""
        return self.gradients.sample_losses

    @property
    def earlier_loss(self) -> Tensor | None:
        """This process's part of the mean loss of the earlier requests' samples, a scalar without a
        gradient, as `retain_loss` is; None if the step has computed none."""
        losses = self.gradients.constraint_losses
        if losses is None or not self.all_earlier:
            return None
        # Those of earlier requests come first.
        return losses[: self.earlier].sum() * (self.processes / self.all_earlier)
