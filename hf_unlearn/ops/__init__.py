"""Linear algebra of the projection: Triton kernels on CUDA devices, plain torch everywhere else."""

from .dispatch import (
    active_kernels,
    doubles_are_fast,
    fused_kernel_available,
    inner_products,
    product_inner_products,
    solve,
    weighted_sum,
)
from .doubles import float64_device, has_float64, move_to, sum_float64, to_float64
from .projection import FLOAT32_IS_ENOUGH, FLOAT32_ROUNDING, Solution, orthogonal_component

__all__ = [
    "FLOAT32_IS_ENOUGH",
    "FLOAT32_ROUNDING",
    "Solution",
    "active_kernels",
    "to_float64",
    "doubles_are_fast",
    "fused_kernel_available",
    "has_float64",
    "float64_device",
    "inner_products",
    "move_to",
    "orthogonal_component",
    "product_inner_products",
    "solve",
    "sum_float64",
    "weighted_sum",
]
