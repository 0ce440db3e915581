"""Samples without the padding that a batch gives them, for models whose loss depends on it.

Most models get an attention mask, or inputs of one size. Some have neither: wav2vec 2.0 with group
norm, whose first layer normalises over all of its input, padding included.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..per_sample.reference import OWN_PARTS, count_samples, select_sample

ROWS = 8  # of a data set, spread over it, that are looked at before the training
MATTERS = (
    "padding changes the loss of a sample in {model}, so that it depends on the other samples of "
    "its batch. Each sample is "
    "computed without its padding. To be fast again, {remedy}, or sort samples of one length "
    "together (a batch without "
    "padding is exact, too). In evaluation the loss is that of padded samples: set "
    "per_device_eval_batch_size=1 for their own"
)


def remedy_for(model) -> str:
    config = getattr(model, "config", None)
    if getattr(config, "feat_extract_norm", None) == "group":
        return (
            "use a model with feat_extract_norm='layer' and a feature extractor with "
            "return_attention_mask=True (group norm "
            "takes its statistics over the padding, whatever the mask says)"
        )
    return "let the processor return an attention_mask (return_attention_mask=True) and give it to the model"


class PartsKept:
    """A collator whose batches say, under `OWN_PARTS`, which part of each tensor is a sample's
    own."""

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
    """From where to where a sample's own values are, on each axis of each tensor that is padded;
    None where a tensor is not the padded one of the sample alone (a collator that draws random
    numbers)."""
    parts = {}
    for name, value in alone.items():
        if isinstance(value, Tensor) and value.ndim:
            part = _part(padded.get(name), value)
            if part is None:
                return None
            if value.shape != padded[name].shape:
                parts[name] = part
    return parts


def _part(padded, alone: Tensor) -> tuple[tuple[int, int], ...] | None:
    if not isinstance(padded, Tensor) or padded.ndim != alone.ndim:
        return None
    behind = tuple((0, size) for size in alone.shape)
    before = tuple((whole - size, whole) for size, whole in zip(alone.shape, padded.shape))
    for part in (behind, before):
        if all(start >= 0 and stop <= whole for (start, stop), whole in zip(part, padded.shape)):
            if torch.equal(padded[tuple(slice(*ends) for ends in part)], alone):
                return part
    return None


def padding_matters(
    rows: list, collator: Callable, loss_of: Callable[[dict], Tensor], prepared, tolerance: float
) -> bool:
    """Whether the loss of one of some samples is another in their batch, with its padding, than
    without.

    Args:
        loss_of: the loss of a batch of one.
        prepared: brings a batch to where the model is.
    """
    if len(rows) < 2:
        return False
    batch = PartsKept(collator)(rows)
    parts, k = batch.pop(OWN_PARTS), count_samples(batch)
    if k != len(rows):
        return False
    batch = prepared(batch)
    with torch.no_grad():
        for n in [n for n in range(k) if parts[n]][:4]:
            padded = select_sample(batch, n, k)
            own = select_sample({**batch, OWN_PARTS: parts}, n, k)
            losses = [float(loss_of(one)) for one in (padded, own)]
            if abs(losses[0] - losses[1]) > tolerance * abs(losses[1]):
                return True
    return False
