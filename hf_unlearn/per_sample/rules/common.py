"""What the rules share: splitting the sample axis, and undoing broadcasting for each sample."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..rows import Dense, Rows

# What a rule returns: for each argument that may be a weight, a function that makes the rows of its
# gradients. An argument that is a member of a list has an index.
RowsByArgument = dict[str | tuple[str, int], Callable[[], Rows]]


class Unsupported(Exception):
    """The engine cannot separate the samples' shares in the gradient of `parameters`.

    The slow, exact path can.
    """

    def __init__(self, reason: str, parameters: tuple[nn.Parameter, ...] = ()):
        super().__init__(reason)
        self.parameters = parameters


def by_sample(x: Tensor, k: int) -> Tensor:
    """(k * s, ...) -> (k, s, ...).

    Raises:
        Unsupported: the leading axis does not divide over the samples.
    """
    if x.ndim == 0 or len(x) % k:
        raise Unsupported(f"a tensor of shape {tuple(x.shape)} does not divide over {k} samples")
    return x.reshape(k, len(x) // k, *x.shape[1:])  # (k, s, ...)


def positions(x: Tensor, k: int) -> Tensor:
    """(k * s, ..., c) -> (k, T, c)."""
    return by_sample(x, k).flatten(1, -2)


def sum_to(x: Tensor, shape: torch.Size, k: int) -> Dense:
    """Undoes broadcasting for each sample.

    Args:
        x: the gradient (k * s, ...) of a parameter that was broadcast to the samples.
        shape: of the parameter.
    """
    padded = (1,) * (x.ndim - len(shape)) + tuple(shape)
    if len(padded) > x.ndim:
        raise Unsupported(f"a parameter of shape {tuple(shape)} has more axes than the samples")
    axes = [1] + [axis + 1 for axis in range(1, x.ndim) if padded[axis] == 1]
    if padded[0] == 1:
        G = by_sample(x, k).sum(axes, dtype=x.dtype)
        return Dense(G.reshape(k, *shape))  # (k, *shape)
    if padded[0] != len(x):
        raise Unsupported(
            f"a parameter of shape {tuple(shape)} has values of its own along the sample axis"
        )
    x = x.sum([axis - 1 for axis in axes[1:]], keepdim=True) if axes[1:] else x
    return own_values(x.reshape(shape), k, 0)


def own_values(G: Tensor, k: int, axis: int) -> Dense:
    """Rows (k, *G.shape) of a tensor that has values of its own for each sample along one axis.

    Such a tensor comes from an expansion that was not recorded.
    """
    owners = torch.arange(G.shape[axis], device=G.device) // (G.shape[axis] // k)
    mask = (owners == torch.arange(k, device=G.device)[:, None]).to(G.dtype)  # (k, G.shape[axis])
    return Dense(G * mask.reshape(k, *[1] * axis, -1, *[1] * (G.ndim - 1 - axis)))


def by_channel(x: Tensor, k: int) -> Dense:
    """(k * s, c, ...) -> rows (k, c)."""
    x = by_sample(x, k)  # (k, s, c, ...)
    return Dense(x.flatten(3).sum((1, 3)) if x.ndim > 3 else x.sum(1))
