"""PGU: forgetting in directions that the layer inputs of the retain samples do not use."""

from collections import defaultdict
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import move_to, to_float64
from .base import Method, Preparation, Step

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
Layer: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d


class PGU(Method):
    """Projected-gradient unlearning (Hoang et al., WACV 2024, arXiv 2312.04095): ascends the forget
    loss with the gradient G (o, i) of each layer's weight projected to

        G - G M M^T

    M (i, r) are the main directions of the layer's inputs on the retain samples: the leading
    eigenvectors of their second moment, the fewest whose share of its trace exceeds `variance`. It
    is computed over all retain samples and positions before the first step; convolutions use their
    patches. So the output of a layer on an input x changes only by what of x lies outside of M.

    As in the paper, all other parameters stay fixed, because every input uses them: biases,
    normalisation layers, embeddings and tied weights. The paper's loss is for classifiers,
    -log(1 - p_y) minus the entropy. Here the model's own loss is ascended, for every task. The
    projection is exact for plain SGD. An optimizer that rescales single weights distorts it.

    Args:
        variance: share of the trace that is protected, in (0, 1).

    Raises:
        ValueError: variance is outside of (0, 1); when training begins, if no trained weight
            belongs only to linear and convolution layers.
    """

    uses_retain = False
    edits_gradient = True
    ascends_forget_loss = True
    projects = True
    prepares = ("retain",)

    def __init__(self, variance: float = 0.9):
        if not 0 < variance < 1:
            raise ValueError(f"variance is {variance}, but must be in (0, 1)")
        self.variance = variance
        # M (i, r) of each weight
        self.directions: dict[Tensor, Tensor] = {}

    def prepare(self, start: Preparation) -> None:
        moments: dict[Tensor, Tensor] = {}

        def add_moment(layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # (positions, i)
            rows = layer_inputs(layer, inputs[0].detach())
            earlier = moments.get(layer.weight)
            moments[layer.weight] = rows.T @ rows if earlier is None else earlier + rows.T @ rows

        layers = _projected_layers(start.model, set(start.parameters.values()))
        handles = [layer.register_forward_hook(add_moment) for layer in layers]
        try:
            with torch.no_grad():
                # One sample at a time, so that no padding counts.
                for sample in start.samples("retain"):
                    start.loss(sample)
        finally:
            for handle in handles:
                handle.remove()
        if not moments:
            raise ValueError(
                "pgu projects the weights of linear and convolution layers, but no trainable "
                "weight belongs only to such layers: train such weights, or use 'agem', which "
                "projects in all weights"
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
                # (o, i), (i, r)
                G, M = p.grad.flatten(1), self.directions[p].to(p.grad.dtype)
                p.grad = (G - (G @ M) @ M.T).view_as(p)


def _projected_layers(model: nn.Module, trained: set[nn.Parameter]) -> list[nn.Module]:
    """The linear and convolution layers whose weight is trained and used only by such layers."""
    uses = defaultdict(list)
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            uses[p].append((module, name))
    projected = [p for p in uses if p in trained and all(_is_layer_weight(*use) for use in uses[p])]
    return [module for p in projected for module, _ in uses[p]]


def _is_layer_weight(module: nn.Module, name: str) -> bool:
    if name != "weight" or not isinstance(module, LAYERS):
        return False
    # `layer_inputs` does not support padding="same" and the like.
    return isinstance(module, nn.Linear) or not isinstance(module.padding, str)


def layer_inputs(layer: Layer, x: Tensor) -> Tensor:
    """The vectors that a layer multiplies with its flattened weight (o, i).

    Args:
        layer: one of `LAYERS`.
        x: its input, (k, ..., i) or (k, channels, ...).

    Returns:
        (positions, i), at least in float32. Each group of a convolution has positions of its own.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    if isinstance(layer, nn.Conv1d):
        # As a convolution of images with one row.
        sizes = [(1, n[0]) for n in (layer.kernel_size, layer.dilation)]
        patches = F.unfold(
            x.unsqueeze(-2), sizes[0], sizes[1], (0, layer.padding[0]), (1, layer.stride[0])
        )
    else:
        patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    # (k, groups * i, T) -> (k, groups, i, T) -> (k * groups * T, i)
    patches = patches.unflatten(1, (-1, layer.weight[0].numel()))
    return patches.transpose(2, 3).flatten(0, 2)


def main_directions(moment: Tensor, variance: float) -> Tensor:
    """The leading eigenvectors (i, r) of a second moment.

    Args:
        moment: (i, i), symmetric and positive semidefinite.
        variance: r is the smallest number whose eigenvalues exceed this share of the trace.
    """
    values, vectors = torch.linalg.eigh(to_float64(moment))
    values = values.flip(0).clamp_min(0)
    share = values.cumsum(0) / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    rank = min(int((share <= variance).sum()) + 1, len(values))
    return move_to(vectors.flip(1)[:, :rank], moment.dtype, moment.device)
