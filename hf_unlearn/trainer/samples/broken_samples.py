"""Finds and names the samples whose loss or gradient is not finite."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...per_sample.reference import count_samples, sample_gradient, select_sample
from ...per_sample.shards import all_finite, own_parameters, sharded_modules
from ..batches.retain_batches import RetainBatches
from ..batches.seeded import random_state_kept
from ..batches.training_data import length_or_none
from ..processes import all_processes
from ..protocol import SampleView

Loss = Callable[[dict], Tensor]


def broken_in_step(
    trainer: SampleView,
    loss_of: Loss,
    forget_batches: list[dict],
    retain_batch: dict | None,
    retain: RetainBatches,
) -> list[str]:
    """Names of this process's samples, of the whole optimizer step, whose loss or gradient is not
    finite.

    Args:
        loss_of: the loss of a batch.
        retain_batch: None if the step has not come to it.
    """
    names = []
    dataset, collator = trainer.collated(trainer.train_dataset, "training")
    for batch in map(trainer._prepare_inputs, forget_batches):
        broken = _broken_indices(trainer, loss_of, batch)
        indices = [index_in_dataset(dataset, collator, batch, n) for n in broken]
        names += sample_names("forget", broken, indices)
    if retain_batch is not None:
        indices = retain.indices()
        # What follows in the batch is the silence of the same samples.
        broken = [n for n in _broken_indices(trainer, loss_of, retain_batch) if n < len(indices)]
        retained = len(indices) - retain.earlier_samples()
        kept = [n for n in broken if n < retained]
        names += sample_names("retain", kept, [indices[n] for n in kept])
        earlier, start = [n for n in broken if n >= retained], len(trainer.retain_dataset)
        names += sample_names(
            "previous_forget_dataset", earlier, [indices[n] - start for n in earlier]
        )
    return names


def _broken_indices(trainer: SampleView, loss_of: Loss, batch: dict) -> list[int]:
    if not sharded_modules(trainer.model):
        # DeepSpeed would take a gradient that is computed here for the next step's.
        of_gradient = not trainer.is_deepspeed_enabled
        return broken_samples(trainer.model, loss_of, batch, of_gradient=of_gradient)
    # A sharded model can only be computed by all processes together, so all look at every batch.
    of_each_process = [
        broken_samples(
            trainer.model,
            loss_of,
            trainer._prepare_inputs(shared_batch),
            agree=lambda flag: any(all_processes(flag)),
        )
        for shared_batch in all_processes(batch)
    ]
    return of_each_process[trainer.args.process_index]


def broken_samples(
    model: nn.Module,
    loss_of: Loss,
    batch: dict,
    agree: Callable[[bool], bool] = bool,
    of_gradient: bool = True,
) -> list[int]:
    """The indices of the samples in a batch that, computed alone, have a loss that is not finite;
    if there are none, of those whose gradient is not finite.

    The random state is restored, so that the search does not change the run.

    Args:
        agree: combines the flags of all processes into one, when they look at one batch together.
        of_gradient: whether gradients are checked, too.
    """
    k, parameters = count_samples(batch), [p for p in own_parameters(model) if p.requires_grad]

    def is_broken(n: int, backward: bool) -> bool:
        with torch.set_grad_enabled(backward):
            loss = loss_of(select_sample(batch, n, k))
            tensors = sample_gradient(model, loss, parameters) if backward else [loss]
        return agree(not all_finite(tensors))

    with random_state_kept(parameters[0].device):
        broken = [n for n in range(k) if is_broken(n, False)]
        return broken or [n for n in range(k) if of_gradient and is_broken(n, True)]


def index_in_dataset(
    dataset: Any, collator: Callable[[list], dict], batch: dict, n: int
) -> int | None:
    """The index in its dataset of sample n of a batch; None if there is no such sample.

    It is found by its values, because each kind of data loader hides its sampler elsewhere.
    """
    if length_or_none(dataset) is None:
        return None
    wanted = select_sample(batch, n, count_samples(batch))
    return next(
        (index for index in range(len(dataset)) if _same(wanted, collator([dataset[index]]))), None
    )


def _same(padded: dict, alone: dict) -> bool:
    """Whether two batches of one sample are equal, apart from padding at the end of the first."""
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


def sample_names(
    split: str, in_batch: Iterable[int], indices: Iterable[int | None]
) -> Iterator[str]:
    """Names of samples for messages, with their index in the dataset where it is known."""
    for n, index in zip(in_batch, indices):
        yield (
            f"{split} sample {index}"
            if index is not None
            else f"{split} sample at index {n} of its batch"
        )
