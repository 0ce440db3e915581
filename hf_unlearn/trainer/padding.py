"""Removes the padding that a batch gives its samples, for models whose loss depends on it.

Most models get an attention mask, or inputs of one size. Some have neither: wav2vec 2.0 with group
norm, whose first layer normalises over all of its input, padding included.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..per_sample.reference import OWN_PARTS, count_samples, select_sample

# How many rows of each data set, spread evenly over it, are tested before the training.
ROWS = 8
# Losses below this are compared as if they were as large: what a model has learned by heart has
# losses of 1e-4, which differ by rounding alone.
SMALL_LOSS = 1e-2
PADDING_MATTERS = (
    "padding changes the loss of a sample in {model}, so that the loss depends on the other "
    "samples of its batch. Each sample is computed without its padding. To be fast again, "
    "{remedy}, or put samples of the same length into one batch (a batch without padding is exact, "
    "too). The evaluation still uses padded samples: set per_device_eval_batch_size=1 to avoid that"
)


def remedy_for(model: nn.Module) -> str:
    """What makes the model's loss independent of padding, as an instruction to the user."""
    config = getattr(model, "config", None)
    if getattr(config, "feat_extract_norm", None) == "group":
        return (
            "use a model with feat_extract_norm='layer' and a feature extractor with "
            "return_attention_mask=True (group norm takes its statistics over the padding, "
            "whatever the mask says)"
        )
    return (
        "let the processor return an attention_mask (return_attention_mask=True) and give it to "
        "the model"
    )


class OwnPartsCollator:
    """A collator whose batches say, under `OWN_PARTS`, which part of each tensor belongs to a
    sample itself and is not padding."""

    def __init__(self, collator: Callable[[list], dict]):
        self.collator = collator

    def __call__(self, rows: list) -> dict:
        batch = self.collator([copy.copy(row) for row in rows])
        if len(rows) > 1:
            batch[OWN_PARTS] = [parts or {} for parts in self._parts(batch, rows)]
        return batch

    def _parts(self, batch: dict, rows: list) -> Iterator[dict | None]:
        for n, row in enumerate(rows):
            yield own_parts(select_sample(batch, n, len(rows)), self.collator([copy.copy(row)]))


def own_parts(padded: dict, alone: dict) -> dict[str, tuple] | None:
    """Where a sample's own values start and stop, on each axis of each tensor that is padded.

    None if a tensor is not the padded one of the sample alone, as with a collator that draws random
    numbers.
    """
    parts = {}
    for name, value in alone.items():
        if isinstance(value, Tensor) and value.ndim:
            part = _part(padded.get(name), value)
            if part is None:
                return None
            if value.shape != padded[name].shape:
                parts[name] = part
    return parts


def _part(padded: Tensor | None, alone: Tensor) -> tuple[tuple[int, int], ...] | None:
    if not isinstance(padded, Tensor) or padded.ndim != alone.ndim:
        return None
    padded_behind = tuple((0, size) for size in alone.shape)
    padded_before = tuple((whole - size, whole) for size, whole in zip(alone.shape, padded.shape))
    for part in (padded_behind, padded_before):
        if all(start >= 0 and stop <= whole for (start, stop), whole in zip(part, padded.shape)):
            if torch.equal(padded[tuple(slice(*ends) for ends in part)], alone):
                return part
    return None


def padding_matters(
    rows: list,
    collator: Callable[[list], dict],
    loss_of: Callable[[dict], Tensor],
    prepare: Callable[[dict], dict],
    tolerance: float,
) -> bool:
    """Whether padding changes the loss of one of these samples.

    Args:
        loss_of: the loss of a batch of one.
        prepare: moves a batch to the model's device.
        tolerance: the largest relative difference between two equal losses.
    """
    if len(rows) < 2:
        return False
    batch = OwnPartsCollator(collator)(rows)
    parts, k = batch.pop(OWN_PARTS), count_samples(batch)
    if k != len(rows):
        return False
    batch = prepare(batch)
    with torch.no_grad():
        for n in [n for n in range(k) if parts[n]][:4]:
            padded = select_sample(batch, n, k)
            own = select_sample({**batch, OWN_PARTS: parts}, n, k)
            losses = [float(loss_of(one)) for one in (padded, own)]
            if abs(losses[0] - losses[1]) > tolerance * max(abs(losses[1]), SMALL_LOSS):
                return True
    return False
