"""How far the result of a projection is from being orthogonal."""

import torch


def largest_cosine(v: torch.Tensor, u: torch.Tensor, rows: torch.Tensor) -> float:
    """max_n |<v, g_n>| / (|u| |g_n|) over the rows that are not zero."""
    lengths = rows.double().norm(dim=1)
    cosines = (rows.double() @ v.double()).abs() / (u.double().norm() * lengths.clamp_min(1e-300))
    return float(cosines[lengths > 0].max()) if (lengths > 0).any() else 0.0
