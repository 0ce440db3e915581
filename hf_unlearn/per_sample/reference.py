"""Per-sample gradients, one sample at a time: slow and obvious.

The engine falls back to this, and its tests compare with this.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from accelerate.utils import find_batch_size
from torch import Tensor, nn

from ..models import IGNORE_INDEX
from .shards import own_parameters

# Inputs of transformers models that hold the patches of all images one after the other, and the
# grid (images, 3) with the sizes of the images.
PATCHES = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}

# In a batch whose padding may matter: for each input, where each sample's own values start and end
# on each axis, as integers (k, axes of a sample, 2).
UNPADDED = "_unpadded"
# Such a start and end for an axis that is not padded, and for one of which it is not known.
WHOLE, UNKNOWN = (0, 2**62), (-1, 2**62)


def count_samples(batch: dict) -> int:
    """k, the number of samples in a collated batch."""
    patches = [name for name, sizes in PATCHES.items() if sizes in batch]
    return find_batch_size({name: value for name, value in batch.items() if name not in patches})


def select_sample(batch: dict, n: int, k: int) -> dict:
    """Sample n of a collated batch of k samples, as a batch of one."""
    return select_samples(batch, slice(n, n + 1), k)


def select_samples(batch: dict, samples: slice, k: int) -> dict:
    """Some samples of a collated batch of k samples.

    They are selected from each tensor and each list (of boxes) with k entries, and from the patches
    of images (`patch_owners`).
    """

    def is_by_sample(value: object) -> bool:
        if isinstance(value, Tensor) and not value.ndim:
            return False
        return isinstance(value, (Tensor, list, tuple)) and len(value) == k

    selected = {
        name: value[samples] if is_by_sample(value) else value for name, value in batch.items()
    }
    for name, owners in patch_owners(batch, k).items():
        wanted = torch.arange(k, device=owners.device)[samples]
        selected[name] = batch[name][torch.isin(owners, wanted)]
    if UNPADDED in batch:
        selected[UNPADDED] = {name: ranges[samples] for name, ranges in batch[UNPADDED].items()}
        if all(len(ranges) == 1 for ranges in selected[UNPADDED].values()):
            return _without_padding(selected)
    return selected


def without_ranges(batch: dict) -> dict:
    """The batch as the model takes it, without `UNPADDED`."""
    return {name: value for name, value in batch.items() if name != UNPADDED}


def _without_padding(sample: dict) -> dict:
    """A batch of one with `UNPADDED`, with its padding cut off.

    Labels are left whole if they were replaced and reach into the padding.
    """
    unpadded = without_ranges(sample)
    for name, (ranges,) in sample[UNPADDED].items():
        cut = unpadded[name][tuple(slice(max(start, 0), end) for start, end in ranges.tolist())]
        if name != "labels" or _count_labels(unpadded[name]) == _count_labels(cut):
            unpadded[name] = cut
    return unpadded


def _count_labels(labels: Tensor) -> int:
    return int((labels != IGNORE_INDEX).sum())


def patch_owners(batch: dict, k: int) -> dict[str, Tensor]:
    """The sample of each patch (N,), for inputs that hold the patches of all images or videos.

    The grid of sizes beside such an input says how many patches each image has (as in Qwen2-VL).

    Returns:
        By the name of the input.

    Raises:
        ValueError: there is not one image for each sample, so the owners are unknown.
    """
    owners = {}
    for name, sizes in PATCHES.items():
        if not isinstance(batch.get(name), Tensor) or not isinstance(batch.get(sizes), Tensor):
            continue
        grid = batch[sizes]
        if len(grid) != k:
            raise ValueError(
                f"{sizes} has {len(grid)} images for {k} samples, so it is unknown which image "
                "belongs to which sample. Give each sample one image."
            )
        owners[name] = torch.arange(k, device=grid.device).repeat_interleave(grid.prod(-1))
    return owners


def per_sample_gradients(
    model: nn.Module,
    loss_of: Callable[[dict], Tensor],
    batch: dict,
    k: int,
    parameters: Sequence[nn.Parameter],
) -> Iterator[list[Tensor]]:
    """Yields g_n, a tensor for each parameter, for each of the k samples.

    Each takes one forward and one backward pass.

    Args:
        loss_of: the model's loss on a batch; here it gets only batches of one sample.
    """
    for n in range(k):
        yield sample_gradient(model, loss_of(select_sample(batch, n, k)), parameters)


def require_gradient(loss: Tensor) -> None:
    """Raises ValueError if a loss depends on no trained parameter; autograd would not say why."""
    if not loss.requires_grad:
        raise ValueError(
            "the loss depends on none of the parameters that have requires_grad=True, so nothing "
            "would be forgotten: unfreeze parameters that the model uses"
        )


def sample_gradient(
    model: nn.Module, loss: Tensor, parameters: Sequence[nn.Parameter]
) -> list[Tensor]:
    """The gradient of a loss, for each parameter; `.grad` stays as it was.

    For a sharded model (FSDP2), it is the sharded mean over processes of their losses' gradients.

    Raises:
        ValueError: the loss depends on no trained parameter.
    """
    require_gradient(loss)
    # Re-entrant checkpoints do not work with `torch.autograd.grad`.
    before = {p: p.grad for p in own_parameters(model)}
    model.zero_grad(set_to_none=True)
    try:
        loss.backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    finally:
        for p, grad in before.items():
            p.grad = grad


def orthograd_gradient(u: Tensor, rows: Tensor, alpha: float) -> Tensor:
    """g = alpha mean_n(g_n) - (1 - alpha) u_perp in float64, by a singular value decomposition.

    This is slow and independent of `ops.projection`: u_perp is u without its part in the span of
    A's right singular vectors.

    Args:
        u: (d,).
        rows: A (k, d).
    """
    u, rows = u.double(), rows.double()
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
    _, values, directions = torch.linalg.svd(unit, full_matrices=False)
    span = directions[values > 1e-6]
    return alpha * rows.mean(0) - (1 - alpha) * (u - span.T @ (span @ u))
