"""PGU: forgetting in directions that the retain samples' layer inputs do not have."""

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import doubled, moved
from .base import Method, Preparation, Step

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


class PGU(Method):
    """Projected-gradient unlearning (Hoang et al., WACV 2024, arXiv 2312.04095): ascends the forget
    loss with each layer's weight gradient G (o, i) less its part in the main directions M (i, r) of
    the retain samples' inputs, G - G M M^T, so that what the layer makes of these inputs stays
    within what the other directions hold of them.

    M are the first eigenvectors of the inputs' second moments, as few as hold more than `variance`
    of their trace, over all retain samples and positions at the start. Convolutions see their
    patches. Parameters that are no weight of a linear or convolution layer (biases, norms,
    embeddings, tied ones) meet every input and do not move, as published. The published loss is for
    classifiers alone (-log(1 - p_y), less the entropy); here it is ascent, for every task. After a
    step of plain SGD this holds exactly; an optimizer that scales single weights bends it.

    Args:
        variance: share of the inputs' second moments that is protected, in (0, 1).
    """

    uses_retain = False
    edits_gradient = True
    projects = True
    prepares = ("retain",)

    def __init__(self, variance: float = 0.9):
        if not 0 < variance < 1:
            raise ValueError(f"variance is {variance}, but must be in (0, 1)")
        self.variance = variance
        self.directions: dict[nn.Parameter, Tensor] = {}

    def prepare(self, start: Preparation) -> None:
        moments: dict[nn.Parameter, Tensor] = {}
        layers = _own_weights(start.model, set(start.parameters.values()))

        def note(layer, inputs, output):
            rows = layer_inputs(layer, inputs[0].detach())
            moments[layer.weight] = moments.get(layer.weight, 0) + rows.T @ rows

        handles = [layer.register_forward_hook(note) for layer in layers]
        try:
            with torch.no_grad():
                for sample in start.samples("retain"):  # one at a time, so that nothing is padded
                    start.loss(sample)
        finally:
            for handle in handles:
                handle.remove()
        if not moments:
            raise ValueError(
                "pgu projects in linear and convolution layers, but no weight that is to be "
                "trained belongs to one alone"
            )
        self.directions = {
            p: main_directions(start.total(moment), self.variance) for p, moment in moments.items()
        }

    def forget(self, step: Step) -> Tensor:
        loss = step.forget_loss()
        step.backward(-loss)
        return loss.detach()

    def finish(self, step: Step) -> None:
        for p in step.parameters:
            if p not in self.directions:
                p.grad = None
            elif p.grad is not None:
                G, M = p.grad.flatten(1), self.directions[p].to(p.grad.dtype)
                p.grad = (G - (G @ M) @ M.T).view_as(p)


def _own_weights(model: nn.Module, trained: set[nn.Parameter]) -> list[nn.Module]:
    """The layers whose weight is trained and is used by such layers alone."""
    owners = defaultdict(list)
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            owners[p].append((module, name))
    fit = [p for p, uses in owners.items() if p in trained and all(_is_layer(*use) for use in uses)]
    return [module for p in fit for module, _ in owners[p]]


def _is_layer(module: nn.Module, name: str) -> bool:
    return (
        name == "weight"
        and isinstance(module, LAYERS)
        and not isinstance(getattr(module, "padding", None), str)
    )


def layer_inputs(layer: nn.Module, x: Tensor) -> Tensor:
    """What the columns of a layer's weight (o, i) meet: (positions, i), in at least float32."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    if isinstance(layer, nn.Conv1d):
        sizes = [(1, n[0]) for n in (layer.kernel_size, layer.dilation)]
        patches = F.unfold(
            x.unsqueeze(-2), sizes[0], sizes[1], (0, layer.padding[0]), (1, layer.stride[0])
        )
    else:
        patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return (
        patches.unflatten(1, (-1, layer.weight[0].numel())).transpose(2, 3).flatten(0, 2)
    )  # groups are positions, too


def main_directions(moment: Tensor, variance: float) -> Tensor:
    """The first eigenvectors (i, r) of a second moment (i, i), as few as hold more than that share
    of its trace."""
    values, vectors = torch.linalg.eigh(doubled(moment))
    values = values.flip(0).clamp_min(0)
    share = values.cumsum(0) / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    rank = min(int((share <= variance).sum()) + 1, len(values))
    return moved(vectors.flip(1)[:, :rank], moment.dtype, moment.device)
