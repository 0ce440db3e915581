"""Linear algebra of the projection: plain torch today, fused GPU kernels beside it."""

from .projection import FLOAT32_IS_ENOUGH, Solution, orthogonal_component, solve

__all__ = ["FLOAT32_IS_ENOUGH", "Solution", "orthogonal_component", "solve"]
