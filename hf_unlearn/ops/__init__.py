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
from .doubles import doubled, has_float64, home_of_doubles, moved, summed
from .projection import FLOAT32_IS_ENOUGH, FLOAT32_ROUNDING, Solution, orthogonal_component

__all__ = [
    "FLOAT32_IS_ENOUGH",
    "FLOAT32_ROUNDING",
    "Solution",
    "active_kernels",
    "doubled",
    "doubles_are_fast",
    "fused_kernel_available",
    "has_float64",
    "home_of_doubles",
    "inner_products",
    "moved",
    "orthogonal_component",
    "product_inner_products",
    "solve",
    "summed",
    "weighted_sum",
]
