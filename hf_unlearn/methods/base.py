"""What a method is: how an optimizer step turns forget and retain data into the gradient that is
descended."""

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ..per_sample import ParameterRows

Visitor = Callable[[ParameterRows, ParameterRows], Tensor | None]
Split = Literal["forget", "retain"]


class Step(Protocol):
    """What the trainer offers to a method within one optimizer step (implemented in `step.py`).

    Attributes:
        samples, first_sample, all_samples: how many retain samples this process has, the place of
            its first among those of all processes, and how many there are in all.
        processes: number of processes, over which `.grad` is averaged.
        parameters: the trainable parameters.
        forget_batch, retain_batch: the samples of this micro-batch, and the retain samples of this
            process.
        forget_weight, retain_weight: what the mean over these samples is to be multiplied with, so
            that its sum over the step, averaged over processes, is the mean over all forget or
            retain samples of the step.
        epoch, progress: whole epochs over the forget set that are done; the share of all optimizer
            steps that is done.
        gradient_scale: what `.grad` is multiplied with (by a gradient scaler).
        optimizer: the optimizer that will take the step.
    """

    samples: int
    first_sample: int
    all_samples: int
    processes: int
    parameters: list[nn.Parameter]
    forget_batch: dict
    retain_batch: dict
    forget_weight: float
    retain_weight: float
    epoch: int
    progress: float
    gradient_scale: float
    optimizer: torch.optim.Optimizer

    def forget_loss(self, batch: dict | None = None) -> Tensor:
        """The micro-batch's loss, a scalar with a gradient (or that of other inputs and labels for
        its samples), times `forget_weight`."""

    def retain_loss(self) -> Tensor:
        """The retain batch's loss, times `retain_weight`."""

    def logits(self, batch: dict, model: nn.Module | None = None) -> Tensor:
        """The model's logits, (k, classes) or (k, T, vocabulary); those of another model, such as a
        teacher, come without a gradient."""

    def generator(self, n: int) -> torch.Generator:
        """Random numbers for sample n of the micro-batch: they depend on the seed, on the step, and
        on the sample's place among all forget samples of the step, not on how these are cut into
        batches and processes."""

    def average(self, value: Tensor) -> Tensor:
        """The mean over processes."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss to `.grad`."""

    def visit_retain_samples(self, visit: Visitor, last: bool = True) -> Tensor:
        """One backward pass over the retain batch, in which `visit` is shown every parameter's
        rows: those of this process and those of all processes. In the last one it returns what this
        process adds to `.grad` (it is then averaged over processes), in those before nothing.
        Returns the retain loss for the log.
        """


class Preparation(Protocol):
    """What the trainer offers to a method before the first step (implemented in `preparation.py`).

    Attributes:
        model: the model as it was before unlearning, without dropout; its weights may be changed.
        parameters: its trainable parameters, by name.
        seed: of the run, for random numbers that all processes must share.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    seed: int

    def size(self, split: Split) -> int:
        """How many samples there are, over all processes."""

    def batches(self, split: Split, shared: bool = True) -> Iterator[dict]:
        """Batches of this process's share of the samples; of all of them, if not `shared`."""

    def samples(self, split: Split) -> Iterator[dict]:
        """This process's share of the samples, as batches of one."""

    def logits(self, batch: dict) -> Tensor:
        """The model's logits, (k, classes) or (k, T, vocabulary)."""

    def loss(self, batch: dict) -> Tensor:
        """The mean over the samples of their losses."""

    def mean_gradient(self, split: Split) -> list[Tensor]:
        """The gradient of the mean loss over all samples, of each parameter."""

    def sample_gradients(self, split: Split) -> Iterator[list[Tensor]]:
        """The gradient of each sample of this process's share, of each parameter: one backward pass
        each."""

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over processes."""


class Method:
    """A method of unlearning. The trainer calls `forget` for each micro-batch of forget samples,
    `retain` once after the last of them, and `finish` after that; between them they must leave the
    gradient to descend in `.grad`.

    Attributes:
        uses_forget, uses_retain: the data the method looks at in a step.
        edits_gradient: whether it changes `.grad` itself. Then nothing else may own the gradients
            (DeepSpeed).
        per_sample: whether it needs the gradient of each retain sample.
        projects: whether it takes from one gradient what another, or retain data, forbid (as every
            method does that is `per_sample`). Then all of them must be of one network: what is
            random in the model (dropout and the like) is off in its steps, unless the user asks for
            it (`freeze_randomness=False`); and then each pass over a batch draws the same random
            numbers.
        prepares: the data that `prepare` looks at, None if there is nothing to prepare. A resumed
            run prepares again, from the weights at the start: only what follows from them, from the
            data and the seed may be held in the method.
        one_shot: whether `prepare` already changes the weights, and the only step is there to log
            the losses.
        shards: whether it works where parameters and `.grad` are in shards (DTensors of FSDP2).
    """

    uses_forget = True
    uses_retain = True
    edits_gradient = False
    per_sample = False
    projects = False
    prepares: tuple[Split, ...] | None = None
    one_shot = False
    shards = False

    def __str__(self) -> str:
        """What results, cards and trackers call an instance."""
        return type(self).__name__

    def check(self, model: nn.Module) -> None:
        """Raises ValueError, at construction, for a model that the method has no meaning for."""

    def prepare(self, start: Preparation) -> None:
        """Looks at the model as it is before the first step (`prepares` says at which data)."""

    def forget(self, step: Step) -> Tensor:
        """Handles one micro-batch of forget samples; returns its loss for the log, a scalar without
        a gradient."""
        raise NotImplementedError

    def retain(self, step: Step) -> dict[str, Tensor]:
        """Handles the retain batch; returns what to log, scalars without a gradient, `retain_loss`
        among them."""
        raise NotImplementedError

    def finish(self, step: Step) -> None:
        """Has the last word on `.grad`."""
