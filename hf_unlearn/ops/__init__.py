"""Linear algebra of the projection: plain torch today, fused GPU kernels beside it."""

from .projection import Solution, orthogonal_component, solve

__all__ = ["Solution", "orthogonal_component", "solve"]
