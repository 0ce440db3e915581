"""Removes the padding that a batch gives its samples, for models whose loss depends on it.

Most models get inputs of one size, or an attention mask that excludes the padding. In some, padding
counts in spite of a mask: the first layer of wav2vec 2.0 with group norm normalises over all of its
input, and some convolutions let padding through.
"""

import copy
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...per_sample.comparison import allowed_errors, loss_scale, norm
from ...per_sample.reference import (
    UNKNOWN,
    UNPADDED,
    WHOLE,
    count_samples,
    sample_gradient,
    select_sample,
    without_ranges,
)
from ...per_sample.shards import own_parameters
from ..batches.seeded import CpuRandomState

# Losses below this are compared as if they were this large: memorised samples have losses near
# 1e-4, which differ only by rounding.
SMALL_LOSS = 1e-2


def remedy_for(model: nn.Module, has_mask: bool) -> str:
    """What makes the model's loss independent of padding, as an instruction to the user; empty if
    only samples of the same length do.

    Args:
        has_mask: whether its batches have an attention mask.
    """
    config = getattr(model, "config", None)
    if getattr(config, "feat_extract_norm", None) == "group":
        return (
            "use a model with feat_extract_norm='layer' and a feature extractor with "
            "return_attention_mask=True (group norm takes its statistics over the padding, "
            "whatever the mask says)"
        )
    if has_mask:
        return ""
    return (
        "let the processor return an attention_mask (return_attention_mask=True) and give it to "
        "the model"
    )


class UnpaddedRangesCollator:
    """A collator whose batches say, under `UNPADDED`, which part of each tensor belongs to a
    sample itself and is not padding.

    Args:
        wanted: whether batches need to say so, as a 0-d tensor in shared memory, because a data
            loader's worker processes collate; None: always.
    """

    def __init__(self, collator: Callable[[list], dict], wanted: Tensor | None = None):
        self.collator, self.wanted = collator, wanted

    def __call__(self, rows: list) -> dict:
        if self.wanted is not None and not self.wanted:
            return self.collator(rows)
        # Each row alone starts from the random numbers of the batch, which are those that it would
        # draw anyway.
        start = CpuRandomState()
        batch = self.collator([copy.copy(row) for row in rows])
        end, ranges = CpuRandomState(), []
        if count_samples(batch) != len(rows):
            return batch
        for n, row in enumerate(rows):
            start.restore()
            alone = batch if len(rows) == 1 else self.collator([copy.copy(row)])
            ranges.append(unpadded_ranges(select_sample(batch, n, len(rows)), alone))
        end.restore()
        batch[UNPADDED] = {
            name: torch.tensor([of_sample[name] for of_sample in ranges]) for name in ranges[0]
        }
        return batch


def unpadded_ranges(padded: dict, alone: dict) -> dict[str, list[tuple[int, int]]]:
    """Where a sample's own values start and end, on each axis of each tensor of its batch: `WHOLE`
    on axes without padding, `UNKNOWN` everywhere if the values of one tensor do not tell.

    Tensors of the same sizes (tokens, their mask and their labels) are padded on the same side.
    """
    names = [name for name, value in padded.items() if isinstance(value, Tensor) and value.ndim]
    unknown = {name: [UNKNOWN] * padded[name].ndim for name in names}
    ranges, by_size = {}, defaultdict(list)
    for name in names:
        value, unpadded = padded[name], alone.get(name)
        if not isinstance(unpadded, Tensor) or unpadded.ndim != value.ndim:
            return unknown
        if unpadded.shape == value.shape:
            ranges[name] = [WHOLE] * value.ndim
        else:
            by_size[value.shape, unpadded.shape].append(name)
    for same_size in by_size.values():
        shared_ranges = _ranges([(padded[name], alone[name]) for name in same_size])
        if shared_ranges is None:
            return unknown
        ranges.update(dict.fromkeys(same_size, shared_ranges))
    return ranges


def _ranges(pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[int, int]] | None:
    """Where some tensors lie within the same tensors with padding; all pairs have the same sizes.

    Not all values need to be equal, because some collators mask tokens at random. None if most are
    not.
    """
    wholes, sizes = (tensor.shape for tensor in pairs[0])
    if any(whole < size for whole, size in zip(wholes, sizes)):
        return None
    behind = [(0, size) for size in sizes]
    before = [(whole - size, whole) for whole, size in zip(wholes, sizes)]
    equal = [
        [
            float((padded[tuple(slice(*ends) for ends in one)] == alone).double().mean())
            for padded, alone in pairs
        ]
        for one in (behind, before)
    ]
    if max(map(max, equal)) <= 0.5:
        return None
    bounds = behind if sum(equal[0]) >= sum(equal[1]) else before
    return [WHOLE if ends == (0, whole) else ends for ends, whole in zip(bounds, wholes)]


def padded_samples(batch: dict) -> list[int]:
    """The indices of the samples with padding, as far as it is known, in a batch with
    `UNPADDED`."""
    ranges = batch.get(UNPADDED, {}).values()
    padded = [(one[..., 1] != WHOLE[1]).flatten(1).any(1) for one in ranges]
    return torch.stack(padded).any(0).nonzero().flatten().tolist() if padded else []


def unknown_samples(batch: dict) -> list[int]:
    """The indices of the samples of which it is unknown what is padding."""
    ranges = list(batch.get(UNPADDED, {}).values())
    return (ranges[0][..., 0] < 0).flatten(1).any(1).nonzero().flatten().tolist() if ranges else []


def loss_difference(batch: dict, loss_of: Callable[[dict], Tensor], n: int) -> float:
    """How much padding changes the loss of sample n of a batch with `UNPADDED`, divided by the loss
    without padding.

    Args:
        loss_of: the loss of a batch of one.
    """
    with torch.no_grad():
        padded, alone = (float(loss_of(sample)) for sample in _padded_and_alone(batch, n))
    return abs(padded - alone) / max(abs(alone), SMALL_LOSS)


def gradients_differ(
    batch: dict,
    model: nn.Module,
    loss_of: Callable[[dict], Tensor],
    precision: torch.dtype,
    n: int,
) -> bool:
    """Whether padding changes the gradient of a parameter for sample n of a batch with `UNPADDED`.

    Padding may hardly change a loss and still change its gradient.

    Args:
        model: the model whose trained parameters the gradients are of.
        loss_of: the loss of a batch of one.
        precision: dtype of the forward pass.
    """
    parameters = [p for p in own_parameters(model) if p.requires_grad]
    if not parameters:
        return False
    scale = loss_scale(precision)
    with torch.enable_grad():
        padded, alone = (
            sample_gradient(model, loss_of(sample) * scale, parameters)
            for sample in _padded_and_alone(batch, n)
        )
    lengths = torch.stack([norm(gradient) for gradient in alone])
    errors = torch.stack([norm(a - b) for a, b in zip(padded, alone)])
    return bool((errors > allowed_errors(lengths, precision)).any())


def _padded_and_alone(batch: dict, n: int) -> list[dict]:
    k = count_samples(batch)
    return [select_sample(one, n, k) for one in (without_ranges(batch), batch)]
