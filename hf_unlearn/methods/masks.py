"""Methods that choose single weights by what the forget samples' gradient says at the start."""

import math

import torch
from torch import Tensor

from .base import Preparation, Step
from .relabel import RandomLabel
from .surgery import Surgery, dot, without


def most(values: list[Tensor], share: float) -> list[Tensor]:
    """Masks of the largest values over all tensors together, at most that share of them (none that
    are 0)."""
    flat = torch.cat([value.flatten() for value in values])
    rank = flat.numel() - math.floor(share * flat.numel())
    threshold = flat.kthvalue(rank).values if rank else flat.new_tensor(-1.0)
    return [(value > threshold) & (value > 0) for value in values]


class SalUn(RandomLabel):
    """SalUn (Fan et al., arXiv 2310.12508): `random_label` that moves only the salient weights,
    those with the largest |gradient of the forget loss| at the start.

    The mask holds for gradients, as in the published code: weight decay (0 unless you set it)
    reaches all weights.

    Args:
        alpha: as in `random_label`.
        sparsity: share of the weights that stay as they are.
    """

    edits_gradient = True

    def __init__(self, alpha: float = 0.5, sparsity: float = 0.5):
        super().__init__(alpha)
        if not 0 <= sparsity < 1:
            raise ValueError(
                f"sparsity is {sparsity}, but must be in [0, 1): at 1 nothing would be moved"
            )
        self.sparsity, self.masks = sparsity, []

    def prepare(self, start: Preparation) -> None:
        super().prepare(start)
        gradients = start.mean_gradient("forget")
        self.masks = most([gradient.abs() for gradient in gradients], 1 - self.sparsity)

    def finish(self, step: Step) -> None:
        for p, mask in zip(step.parameters, self.masks):
            if p.grad is not None:
                p.grad.mul_(mask)


class Scissorhands(Surgery):
    """Scissorhands (Wu & Harandi, arXiv 2401.06187): first the weights that matter most to the
    forget samples, by |gradient * weight| of the forget loss (SNIP), start anew; then L_r - lam L_f
    is descended. Where that gradient g would forget less, <g, -u> < 0 with u the forget gradient,
    it is turned: g - max(margin, <g, u> / |u|^2) u, the published quadratic programme for one
    constraint.

    New weights are uniform in +-1 / sqrt(fan-in), new biases 0, normalisation layers stay, as
    published; there only the upper layers of a ResNet take part, here all trainable weights. u is
    that of the step (published: of one batch at the start of the epoch).

    Args:
        lam: weight of the forget loss.
        sparsity: share of the weights that stay at the start.
        margin: see above.
    """

    prepares = ("forget",)

    def __init__(self, lam: float = 0.05, sparsity: float = 0.97, margin: float = 0.5):
        if not 0 <= sparsity <= 1:
            raise ValueError(f"sparsity is {sparsity}, but must be in [0, 1]")
        self.lam, self.sparsity, self.margin = lam, sparsity, margin

    def prepare(self, start: Preparation) -> None:
        gradients = start.mean_gradient("forget")
        parameters = list(start.parameters.values())
        masks = most(
            [(g * p.detach()).abs() for g, p in zip(gradients, parameters)], 1 - self.sparsity
        )
        generator = torch.Generator().manual_seed(start.seed)
        norms = _of_norms(start.model)
        with torch.no_grad():
            for name, p, mask in zip(start.parameters, parameters, masks):
                if p not in norms and (p.ndim > 1 or name.endswith("bias")):
                    p.copy_(torch.where(mask, _new(p, generator), p))

    def combined(self, u, r, retain_loss):
        g = [y - self.lam * x for x, y in zip(u, r)]
        along, square = dot(g, u), dot(u, u)
        needed = torch.where(square > 0, along / square, 0).clamp_min(self.margin)
        return without(g, u, torch.where(along > 0, needed, 0))


def _of_norms(model: torch.nn.Module) -> set[torch.nn.Parameter]:
    return {
        p
        for module in model.modules()
        if "Norm" in type(module).__name__
        for p in module.parameters(recurse=False)
    }


def _new(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """On the CPU, where random numbers are the same on every machine and process."""
    if parameter.ndim < 2:
        return torch.zeros_like(parameter)
    bound = 1 / math.sqrt(parameter[0].numel())
    return torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator).to(parameter)
