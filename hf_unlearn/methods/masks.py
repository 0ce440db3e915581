"""Methods that select single weights by the forget gradient at the start."""

import math

import torch
from torch import Tensor, nn

from .base import Preparation, Step
from .relabel import RandomLabel
from .surgery import Surgery
from .vectors import Vector, add_scaled, dot


def masks_of_largest(values: Vector, share: float) -> list[Tensor]:
    """Boolean masks of the largest values over all tensors together.

    Args:
        values: tensors without negative values.
        share: fraction of the values to select, in [0, 1]. Zeros are never selected.
    """
    flat = torch.cat([value.flatten() for value in values])
    rank = flat.numel() - math.floor(share * flat.numel())
    threshold = flat.kthvalue(rank).values if rank else flat.new_tensor(-1.0)
    return [(value > threshold) & (value > 0) for value in values]


class SalUn(RandomLabel):
    """SalUn (Fan et al., arXiv 2310.12508): `random_label` that changes only the salient weights,
    those with the largest |gradient of the forget loss| at the start.

    As in the published code, the mask is applied to the gradients. So weight decay, which is 0 by
    default, still changes all weights.

    Args:
        alpha: weight of the retain loss, as in `random_label`.
        sparsity: fraction of the weights that are not trained and stay as they are, in [0, 1). 0.5
            is the published value.

    Raises:
        ValueError: sparsity is outside of [0, 1).
    """

    edits_gradient = True

    def __init__(self, alpha: float = 0.5, sparsity: float = 0.5):
        super().__init__(alpha)
        if not 0 <= sparsity < 1:
            raise ValueError(
                f"sparsity is {sparsity}, but must be in [0, 1): at 1 no weight would change"
            )
        self.sparsity, self.masks = sparsity, []

    def prepare(self, start: Preparation) -> None:
        super().prepare(start)
        gradients = start.mean_gradient("forget")
        self.masks = masks_of_largest([gradient.abs() for gradient in gradients], 1 - self.sparsity)

    def finish(self, step: Step) -> None:
        for p, mask in zip(step.parameters, self.masks):
            if p.grad is not None:
                p.grad.mul_(mask)


class Scissorhands(Surgery):
    """Scissorhands (Wu & Harandi, arXiv 2401.06187). First it re-initialises the weights that
    matter most to the forget samples, those with the largest |gradient of the forget loss * weight|
    (SNIP). Then it descends g = r - lam u, with u and r the forget and the retain gradient. If
    <g, -u> < 0, which would undo forgetting, it descends

        g - max(margin, <g, u> / |u|^2) u

    instead: the published quadratic programme for one constraint.

    As published, new weights are uniform in +-1 / sqrt(fan-in), new biases are 0 and normalisation
    layers keep their weights. Two things differ. All trainable weights take part, while the
    published code only trains the upper layers of a ResNet. u is the gradient of the current step,
    while the published code takes it from one batch at the start of the epoch.

    Args:
        lam: weight of the forget loss.
        sparsity: fraction of the weights that are not initialised again, in [0, 1]. All weights
            are trained afterwards.
        margin: least multiple of u to subtract on a conflict.

    Raises:
        ValueError: sparsity is outside of [0, 1].
    """

    prepares = ("forget",)

    def __init__(self, lam: float = 0.05, sparsity: float = 0.97, margin: float = 0.5):
        if not 0 <= sparsity <= 1:
            raise ValueError(f"sparsity is {sparsity}, but must be in [0, 1]")
        self.lam, self.sparsity, self.margin = lam, sparsity, margin

    def prepare(self, start: Preparation) -> None:
        gradients = start.mean_gradient("forget")
        parameters = list(start.parameters.values())
        scores = [(g * p.detach()).abs() for g, p in zip(gradients, parameters)]
        masks = masks_of_largest(scores, 1 - self.sparsity)
        generator = torch.Generator().manual_seed(start.seed)
        norms = _normalisation_parameters(start.model)
        with torch.no_grad():
            for name, p, mask in zip(start.parameters, parameters, masks):
                if p not in norms and (p.ndim > 1 or name.endswith("bias")):
                    p.copy_(torch.where(mask, _initial_values(p, generator), p))

    def combine(self, u: Vector, r: Vector, retain_loss: Tensor) -> Vector:
        g = [y - self.lam * x for x, y in zip(u, r)]
        along, square = dot(g, u), dot(u, u)
        multiple = torch.where(square > 0, along / square, 0).clamp_min(self.margin)
        return add_scaled(g, u, -torch.where(along > 0, multiple, 0))


def _normalisation_parameters(model: nn.Module) -> set[nn.Parameter]:
    return {
        p
        for module in model.modules()
        if "Norm" in type(module).__name__
        for p in module.parameters(recurse=False)
    }


def _initial_values(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """New values for a parameter: uniform for weights, 0 for biases.

    They are drawn on the CPU, whose random numbers are the same on every machine and process.
    """
    if parameter.ndim < 2:
        return torch.zeros_like(parameter)
    bound = 1 / math.sqrt(parameter[0].numel())
    return torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator).to(parameter)
