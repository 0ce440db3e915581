"""Where an earlier request's loss changes during the next one: along its own update, or beside it.

    python tests/benchmarks/revival_parts.py words speakers

Takes the models of the first two requests of requests_in_a_row.py, and makes those that it does not
find. The second request moves the weights by D, and L is the loss of what the first one forgot. D
is split, in each tensor, into its part along the first request's update and the rest. L changes by
the sum of both parts' line integrals,

    L(end) - L(start) = int_0^1 <dL/dw(start + t D), D> dt,

along the straight line between the two models. Each integral is a Gauss-Legendre sum over six
points of the line, so the two parts add up to the change of the loss but for the error of the sum.
Replaces the rows of the same data in revival_parts.csv.
"""

import sys
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from records import run_columns
from requests_in_a_row import folder_of, in_a_row, write
from torch import Tensor

from hf_unlearn.experiments.audit.audited_run import find_run
from hf_unlearn.trainer.update_sketch import EarlierUpdates

TABLE = Path(__file__).parent / "revival_parts.csv"
METHOD, WAYS = "orthograd", ("none", "samples", "updates")
POINTS = 6
COLUMNS = ["data", "keep_forgotten", "points", "loss_before", "loss_after", "along", "beside"]
COLUMNS += ["date", "commit", "machine", "torch", "transformers"]
Weights = dict[str, Tensor]


class FirstRequest:
    """What the first request forgot, and the change of the weights by which it did."""

    def __init__(self, data: str):
        folder = folder_of(data, METHOD, "", 1)
        self.recipe = find_run(folder).recipe
        (stored,) = EarlierUpdates([folder]).updates
        self.update = {name: kept[0] for name, kept in stored.items()}
        self.model = self.recipe.load_model(str(folder)).eval()
        self.after = self.weights(folder)

    def weights(self, folder: Path) -> Weights:
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

    def parts(self, folder: Path) -> dict[str, float]:
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
        return {"loss_before": losses[0], "loss_after": losses[1], **change}


def inner(one: Weights, other: Weights) -> float:
    return float(sum((one[name].double() * other[name].double()).sum() for name in other))


def measure(data: str) -> list[dict]:
    for keep in WAYS:
        # makes the models that are not there yet
        in_a_row(data, METHOD, keep, requests=2)
    first, when = FirstRequest(data), run_columns()
    rows = []
    for keep in WAYS:
        found = first.parts(folder_of(data, METHOD, keep, 2))
        rounded = {name: round(value, 4) for name, value in found.items()}
        row = {"data": data, "keep_forgotten": keep, "points": POINTS, **rounded, **when}
        rows.append({name: row[name] for name in COLUMNS})
    return rows


if __name__ == "__main__":
    torch.manual_seed(0)
    for chosen in sys.argv[1:] or ("words", "speakers"):
        measured = measure(chosen)
        write(measured, TABLE, COLUMNS)
        for line in measured:
            print(*(line[name] for name in COLUMNS[: COLUMNS.index("date")]), sep=" | ")
