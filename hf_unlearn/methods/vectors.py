"""Arithmetic on vectors of the parameter space, stored as one tensor per parameter."""

import functools

import torch
from torch import Tensor

from ..ops import has_float64, sum_float64

Vector = list[Tensor]


def dot(a: Vector, b: Vector) -> Tensor:
    """The inner product <a, b> over all tensors, a scalar in float64.

    On a device without float64, the products and partial sums are float32.
    """
    if not has_float64(a[0].device):
        products = (sum_float64(x.float() * y.float()) for x, y in zip(a, b))
    else:
        products = ((x.double() * y.double()).sum() for x, y in zip(a, b))
    return functools.reduce(torch.add, products)


def add_scaled(a: Vector, b: Vector, factor: Tensor) -> Vector:
    """a + factor b, in the dtypes of a."""
    return [x + factor.to(x.dtype) * y for x, y in zip(a, b)]


def project_off(a: Vector, b: Vector, only_conflicts: bool = True) -> Vector:
    """a minus its projection onto b; a itself where b is zero.

    Args:
        only_conflicts: project only if <a, b> < 0.
    """
    along, square = dot(a, b), dot(b, b)
    share = torch.where(square > 0, along / square, 0)
    return add_scaled(a, b, -(share.clamp_max(0) if only_conflicts else share))
