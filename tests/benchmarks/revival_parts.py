"""Where an earlier request's loss changes during the next one: along its own update, or beside it.

    python tests/benchmarks/revival_parts.py words speakers

Reads the models that requests_in_a_row.py has made. The second request moves the weights by D, and
L is the loss of what the first one forgot. D is split, in each tensor, into its part along the
first request's update and the rest. L changes by the sum of both parts' line integrals,

    L(end) - L(start) = int_0^1 <dL/dw(start + t D), D> dt,

which are computed with Gauss-Legendre points on the straight way.
"""

import sys
from functools import cached_property

import numpy as np
import torch
from requests_in_a_row import OUT
from torch import Tensor

from hf_unlearn.experiments.audit.audited_run import find_run
from hf_unlearn.trainer.checkpoints.update_sketch import EarlierUpdates

POINTS = 6
Weights = dict[str, Tensor]


class FirstRequest:
    """What the first request forgot, and the change of the weights by which it did."""

    def __init__(self, data: str):
        folder = OUT / f"{data}-orthograd-1"
        self.recipe = find_run(folder).recipe
        (stored,) = EarlierUpdates([folder]).updates
        self.update = {name: kept[0] for name, kept in stored.items()}
        self.model = self.recipe.load_model(str(folder)).eval()
        self.after = self.weights(folder)

    def weights(self, folder: object) -> Weights:
        model = self.recipe.load_model(str(folder))
        return {name: p.detach() for name, p in model.named_parameters()}

    @cached_property
    def batch(self) -> dict:
        samples = self.recipe.evaluation_data(self.model, self.recipe.splits.forget)
        collate = self.recipe.trainer_arguments(self.model)["data_collator"]
        return collate([samples[index] for index in range(len(samples))])

    def loss_and_gradient(self, weights: Weights) -> tuple[float, Weights]:
        self.model.load_state_dict(weights, strict=False)
        self.model.zero_grad()
        loss = self.model(**self.batch)["loss"]
        loss.backward()
        return float(loss.detach()), {n: p.grad for n, p in self.model.named_parameters()}

    def parts(self, folder: object) -> dict[str, float]:
        """The change of the loss over a request that started where the first one ended."""
        end = self.weights(folder)
        move = {name: end[name] - self.after[name] for name in self.update}
        along = {
            name: d * (move[name] * d).sum() / d.square().sum() for name, d in self.update.items()
        }
        change = {"along": 0.0, "beside": 0.0}
        for x, share in zip(*np.polynomial.legendre.leggauss(POINTS)):
            at = {name: self.after[name] + (x + 1) / 2 * step for name, step in move.items()}
            _, gradient = self.loss_and_gradient({**end, **at})
            change["along"] += share / 2 * inner(gradient, along)
            change["beside"] += share / 2 * (inner(gradient, move) - inner(gradient, along))
        losses = [self.loss_and_gradient(weights)[0] for weights in (self.after, end)]
        return {"start": losses[0], "end": losses[1], **change}


def inner(one: Weights, other: Weights) -> float:
    return float(sum((one[name].double() * other[name].double()).sum() for name in other))


if __name__ == "__main__":
    torch.manual_seed(0)
    for chosen in sys.argv[1:]:
        first = FirstRequest(chosen)
        for keep in ("none", "samples", "updates"):
            found = first.parts(OUT / f"{chosen}-orthograd-{keep}-2")
            print(chosen, keep, *(f"{name} {value:.2f}" for name, value in found.items()))
