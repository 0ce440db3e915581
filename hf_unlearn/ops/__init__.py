"""Linear algebra of the projection: fused Triton kernels on CUDA devices, plain torch everywhere else."""

from .dispatch import (
    active_kernels,
    doubles_are_fast,
    fuses,
    inner_products,
    product_inner_products,
    solve,
    weighted_sum,
)
from .projection import FLOAT32_IS_ENOUGH, FLOAT32_ROUNDING, Solution, orthogonal_component

__all__ = [
    "FLOAT32_IS_ENOUGH",
    "FLOAT32_ROUNDING",
    "Solution",
    "active_kernels",
    "doubles_are_fast",
    "fuses",
    "inner_products",
    "orthogonal_component",
    "product_inner_products",
    "solve",
    "weighted_sum",
]
