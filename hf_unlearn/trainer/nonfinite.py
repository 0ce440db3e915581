"""Keeps what is not finite away from the weights, and finds the samples that it came from."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState
from transformers.utils import logging

from ..per_sample.reference import count_samples, sample_gradient, select_sample
from ..per_sample.shards import local, own_parameters
from .checkpoint_files import OUR_STATE
from .retain_batches import random_state_kept

logger = logging.get_logger(__name__)


class SkippedSteps(TrainerCallback):
    """Counts the optimizer steps that were skipped, since a loss or gradient was not finite.

    Args:
        limit: so many in a row end the training.
    """

    def __init__(self, limit: int):
        self.limit, self.total, self.in_a_row = limit, 0, 0
        self._scaler = self._scale = None

    def load(self, checkpoint: str | None) -> None:
        """Continues from a checkpoint, or from zero."""
        path = Path(checkpoint or "") / OUR_STATE
        saved = json.loads(path.read_text()) if checkpoint and path.exists() else {}
        self.total, self.in_a_row = saved.get("skipped_steps", 0), saved.get("skipped_in_a_row", 0)
        self._scaler = self._scale = None

    def save(self, checkpoint: Path, **more) -> None:
        state = {"skipped_steps": self.total, "skipped_in_a_row": self.in_a_row, **more}
        (checkpoint / OUR_STATE).write_text(json.dumps(state))

    def skip(
        self,
        state: TrainerState,
        samples: list[str],
        parameters: Iterable[nn.Parameter],
        scaler=None,
    ) -> None:
        """Takes care that the optimizer's coming step changes nothing.

        Raises:
            ValueError: it is the `limit`-th in a row.
        """
        self.total, self.in_a_row, step = self.total + 1, self.in_a_row + 1, state.global_step + 1
        named = ", ".join(samples) or "no sample alone, only of their sum"
        if state.is_world_process_zero:
            logger.warning(
                f"Step {step} is skipped, since its loss or gradient is not finite: that of "
                f"{named}. "
                f"({self.total} skipped so far, {self.in_a_row} in a row.)"
            )
        if self.in_a_row >= self.limit:
            raise ValueError(
                f"{self.in_a_row} optimizer steps in a row were skipped "
                f"(max_skipped_steps={self.limit}), since their "
                f"loss or gradient was not finite; at step {step} that of {named}. The weights are "
                "those of the last "
                "good step. Remove these samples, or lower learning_rate if the model itself has "
                "diverged."
            )
        if scaler is None:
            for p in parameters:
                # optimizers leave such parameters alone, moments and weight decay included
                p.grad = None
        else:  # a scaler skips the step by itself, but must not take a broken sample for an overflow
            self._scaler, self._scale = scaler, scaler.get_scale()

    def on_step_end(self, args, state, control, **kwargs):
        if self._scaler is not None:
            self._scaler.update(self._scale)
            self._scaler = self._scale = None


def all_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all values that this process has are finite (one synchronisation for all tensors)."""
    tensors = [local(tensor) for tensor in tensors if tensor is not None]
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if not tensors:
        return True
    # where norms take twelve times as long as sums
    if all(tensor.device.type == "cpu" for tensor in tensors):
        sums = [
            tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)).double()
            for tensor in tensors
        ]
        if bool(torch.isfinite(torch.stack(sums)).all()):
            return True  # else a value is not finite, or the sum of finite ones is too large
    norms = [norm.float() for norm in torch._foreach_norm(tensors, torch.inf)]
    return bool(torch.isfinite(torch.stack(norms)).all())


def broken_samples(
    model: nn.Module,
    loss_of: Callable[[dict], Tensor],
    batch: dict,
    agreed: Callable[[bool], bool] = bool,
    of_gradient: bool = True,
) -> list[int]:
    """Places of the samples in a batch whose loss, or else gradient, is not finite when they are
    computed alone.

    The random state is left as it was, so that a run in which something was looked for is the run
    in which nothing was.

    Args:
        agreed: where all processes look at the same batch together, makes of what one of them found
            what all go by.
        of_gradient: whether gradients are looked at, too.
    """
    k, parameters = count_samples(batch), [p for p in own_parameters(model) if p.requires_grad]

    def is_broken(n, backward):
        with torch.set_grad_enabled(backward):
            loss = loss_of(select_sample(batch, n, k))
            tensors = sample_gradient(model, loss, parameters) if backward else [loss]
        return agreed(not all_finite(tensors))

    with random_state_kept(parameters[0].device):
        places = [n for n in range(k) if is_broken(n, False)]
        return places or [n for n in range(k) if of_gradient and is_broken(n, True)]


def place_in_dataset(dataset, collator: Callable[[list], dict], batch: dict, n: int) -> int | None:
    """The index in its dataset of sample n of a batch, found by its values; None where there is no
    such sample.

    A sampler's order is not asked for: each kind of data loader hides another one.
    """
    if not hasattr(dataset, "__len__"):
        return None
    wanted = select_sample(batch, n, count_samples(batch))
    return next(
        (index for index in range(len(dataset)) if _same(wanted, collator([dataset[index]]))), None
    )


def _same(padded: dict, alone: dict) -> bool:
    """Whether two batches of one sample are the same, but for padding behind the first."""
    pairs = [
        (padded.get(name), value)
        for name, value in alone.items()
        if isinstance(value, Tensor) and value.ndim
    ]
    return all(_equal(a, b) for a, b in pairs)


def _equal(padded: Tensor | None, alone: Tensor) -> bool:
    if (
        padded is None
        or padded.ndim != alone.ndim
        or any(a < b for a, b in zip(padded.shape, alone.shape))
    ):
        return False
    padded = padded[tuple(slice(0, size) for size in alone.shape)].to(alone.device)
    return torch.allclose(padded.double(), alone.double(), rtol=0, atol=0, equal_nan=True)


def named(kind: str, places: Iterable[int], indices: Iterable[int | None]) -> Iterator[str]:
    """What a message calls some samples."""
    for place, index in zip(places, indices):
        yield (
            f"{kind} sample {index}"
            if index is not None
            else f"{kind} sample at place {place} of its batch"
        )
