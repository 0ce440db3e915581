"""The interface of an unlearning method: how forget and retain data become the gradient that the
optimizer gets."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..per_sample import ParameterRows

# Called with the rows of one parameter: those of this process, and those of all processes.
RetainVisitor = Callable[[ParameterRows, ParameterRows], Tensor | None]
Split = Literal["forget", "retain"]


class RowRoles(NamedTuple):
    """What the rows are that `Step.visit_retain_samples` shows. First come, process by process, the
    rows of retain samples, then of earlier requests' samples, then of silence
    (`forget_objective="silence"`); in the end the updates of earlier requests.

    samples: how many rows belong to samples.
    this_process: the rows of this process's samples.
    retain_mean: the factors (rows) with which the rows add up to the gradient of the mean retain
        loss; 0 for rows that belong to no retain sample.
    constraints: the indices of the rows of constraints: samples and updates of earlier requests,
        and the silence of samples.
    """

    samples: int
    this_process: slice
    retain_mean: list[float]
    constraints: list[int]


class Step(Protocol):
    """What the trainer offers a method during one optimizer step. The retain batch and its numbers
    are there in `Method.retain` only.

    Attributes:
        samples: number of retain samples on this process, k.
        first_sample: index of this process's first retain sample among those of all processes.
        all_samples: number of retain samples on all processes together.
        rows: what the rows are that `visit_retain_samples` shows.
        processes: number of processes. `.grad` is averaged over them.
        parameters: the trainable parameters.
        forget_batch: the forget samples of this micro-batch, by the names of the model's inputs.
        retain_batch: the retain samples of this process, likewise.
        forget_weight: factor for a mean over this micro-batch's samples. With this factor, the
            values summed over micro-batches and averaged over processes give the mean over all
            forget samples of the step.
        retain_weight: the same factor for the retain batch.
        epoch: number of completed epochs over the forget set.
        progress: fraction of all optimizer steps that is completed.
        gradient_scale: factor that a gradient scaler has put on `.grad`.
        optimizer: the optimizer that will take the step.
    """

    samples: int
    first_sample: int
    all_samples: int
    rows: RowRoles
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
        """The loss of the micro-batch times `forget_weight`, a scalar with a gradient; with another
        `forget_objective`, what a step ascends in place of it.

        Args:
            batch: other inputs and labels for the same samples, in place of `forget_batch`.
        """

    def retain_loss(self) -> Tensor:
        """The loss of the retain batch times `retain_weight`, a scalar with a gradient."""

    def logits(self, batch: dict, model: nn.Module | None = None) -> Tensor:
        """Logits (k, classes) or (k, T, vocabulary).

        Args:
            model: compute the logits of this model, such as a teacher, without a gradient. By
                default the model that is trained.
        """

    def generator(self, n: int) -> torch.Generator:
        """A random generator for sample n of the micro-batch.

        Its numbers depend on the seed, the step and the position of the sample among all forget
        samples of the step. They do not depend on how these samples are split into micro-batches
        and processes.
        """

    def average(self, value: Tensor) -> Tensor:
        """The mean of a value over processes."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss to `.grad`."""

    def visit_retain_samples(self, visit: RetainVisitor, last: bool = True) -> Tensor:
        """Runs one backward pass over the retain batch and calls `visit` for every parameter.

        Args:
            visit: gets the rows of one parameter, one row per retain sample: the rows of this
                process and the rows of all processes. In the last pass it returns what this
                process adds to `.grad`, in the parameter's shape, before `.grad` is averaged over
                processes. In earlier passes it returns None. `rows` says whether there are further
                rows, the constraints; only methods with `keeps_forgotten` get them.
            last: whether this is the last pass of the step.

        Returns:
            The retain loss for the log, a scalar without a gradient.
        """


class Preparation(Protocol):
    """What the trainer offers a method before the first step.

    Attributes:
        model: the model before unlearning, with dropout off. Its weights may be changed.
        parameters: its trainable parameters by name.
        seed: seed of the run, for random numbers that all processes must share.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    seed: int

    def size(self, split: Split) -> int:
        """Number of samples over all processes."""

    def batches(self, split: Split, shared: bool = True) -> Iterator[dict]:
        """Batches of the samples.

        Args:
            shared: split the samples over the processes. Otherwise every process gets all of them.
        """

    def samples(self, split: Split) -> Iterator[dict]:
        """This process's part of the samples, as batches of one."""

    def logits(self, batch: dict) -> Tensor:
        """The model's logits, (k, classes) or (k, T, vocabulary)."""

    def loss(self, batch: dict) -> Tensor:
        """The mean loss over the samples of a batch, a scalar."""

    def mean_gradient(self, split: Split) -> list[Tensor]:
        """The gradient of the mean loss over all samples, one tensor per parameter."""

    def sample_gradients(self, split: Split) -> Iterator[list[Tensor]]:
        """The gradient of each sample of this process's part, one tensor per parameter.

        Each sample takes one backward pass.
        """

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over processes."""


class Method:
    """An unlearning method.

    The trainer calls `forget` for every micro-batch of forget samples, then `retain` once, then
    `finish`. Together they must leave the gradient to descend in `.grad`.

    Attributes:
        uses_forget: whether a step needs forget samples.
        uses_retain: whether a step needs retain samples.
        edits_gradient: whether the method changes `.grad` itself. Such a method does not work with
            DeepSpeed, which owns the gradients.
        per_sample: whether the method needs the gradient of every single retain sample.
        projects: whether the method projects one gradient with respect to others or to retain
            data, as every method with `per_sample` does. All of these must come from the same
            network. So dropout and other randomness of the model is off during its steps. With
            `freeze_randomness=False` it stays on, and every pass over a batch draws the same random
            numbers.
        prepares: the splits that `prepare` reads, or None if there is nothing to prepare. A resumed
            run prepares again from the initial weights. So `prepare` may only store what follows
            from these weights, the data and the seed.
        one_shot: whether `prepare` already changes the weights. The run then has one step, which
            only logs the losses.
        keeps_forgotten: whether the method leaves the losses of constraints (earlier requests'
            samples, and the silence of retain samples) as they are, to first order. It then uses
            all rows that `Step.rows` describes.
        ascends_forget_loss: whether a step ascends `Step.forget_loss` of the forget batch, so that
            `forget_objective` can replace this loss.
        shards: whether the method works on FSDP2 shards, where parameters and `.grad` are DTensors.
    """

    uses_forget = True
    uses_retain = True
    edits_gradient = False
    per_sample = False
    projects = False
    prepares: tuple[Split, ...] | None = None
    one_shot = False
    keeps_forgotten = False
    ascends_forget_loss = False
    shards = False

    def __str__(self) -> str:
        """The name of an instance in results, model cards and trackers."""
        return type(self).__name__

    def check(self, model: nn.Module) -> None:
        """Checks, when the trainer is built, that the method applies to a model.

        Raises:
            ValueError: the method makes no sense for this model.
        """

    def prepare(self, start: Preparation) -> None:
        """Prepares the method before the first step, from the data that `prepares` names."""

    def forget(self, step: Step) -> Tensor:
        """Handles one micro-batch of forget samples.

        Returns:
            Its loss for the log, a scalar without a gradient.
        """
        raise NotImplementedError

    def retain(self, step: Step) -> dict[str, Tensor]:
        """Handles the retain batch.

        Returns:
            What to log, `retain_loss` included: scalars without a gradient.
        """
        raise NotImplementedError

    def finish(self, step: Step) -> None:
        """Makes the last changes to `.grad`."""
