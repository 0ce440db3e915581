"""What a method is: how an optimizer step turns forget and retain data into the gradient that is descended."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from ..per_sample import ParameterRows

Visitor = Callable[[ParameterRows, ParameterRows], Tensor | None]


class Step(Protocol):
    """What the trainer offers to a method within one optimizer step (implemented in `trainer.py`).

    samples, first_sample, all_samples: how many retain samples this process has, the place of its first among those
        of all processes, and how many there are in all.
    processes: number of processes, over which `.grad` is averaged.
    parameters: the trainable parameters.
    """

    samples: int
    first_sample: int
    all_samples: int
    processes: int
    parameters: list[nn.Parameter]

    def forget_loss(self) -> Tensor:
        """The micro-batch's loss, scaled so that its sum over the step, averaged over processes, is the mean over all
        forget samples."""

    def retain_loss(self) -> Tensor:
        """The retain batch's loss, scaled so that its average over processes is the mean over all retain samples."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss to `.grad`."""

    def visit_retain_samples(self, visit: Visitor, last: bool = True) -> Tensor:
        """One backward pass over the retain batch, in which `visit` is shown every parameter's rows: those of this
        process and those of all processes. In the last one it returns what this process adds to `.grad` (it is then
        averaged over processes), in those before nothing. Returns the retain loss for the log.
        """


class Method:
    """A method of unlearning. The trainer calls `forget` for each micro-batch of forget samples, and `retain` once,
    after the last of them; between them they must leave the gradient to descend in `.grad`.

    uses_forget, uses_retain: the data the method looks at.
    edits_gradient: whether it changes `.grad` itself. Then nothing else may own the gradients (DeepSpeed).
    per_sample: whether it needs the gradient of each retain sample.
    shards: whether it works where parameters and `.grad` are in shards (DTensors of FSDP2).
    """

    uses_forget = True
    uses_retain = True
    edits_gradient = False
    per_sample = False
    shards = False

    def forget(self, step: Step) -> Tensor:
        """Handles one micro-batch of forget samples; returns its loss for the log."""
        raise NotImplementedError

    def retain(self, step: Step) -> dict[str, Tensor]:
        """Handles the retain batch; returns what to log, `retain_loss` among it."""
        raise NotImplementedError
