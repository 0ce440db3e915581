"""On a device without float64, float64 sums are computed on the CPU."""

import copy
import functools
from unittest import mock

import pytest
import torch

from hf_unlearn import ops
from hf_unlearn.methods.nullspace import main_directions
from hf_unlearn.methods.orthograd import measure_and_solve
from hf_unlearn.methods.vectors import dot
from hf_unlearn.ops.reductions import inner_products, weighted_sum
from hf_unlearn.per_sample import ParameterRows
from hf_unlearn.per_sample.rows import Dense, Lookup, Product
from hf_unlearn.per_sample.shards import squared_norm
from hf_unlearn.trainer.trainer import UnlearnTrainer
from tests.support.tiny import collate_images, images, make_trainer, tiny_vit
from tests.support.without_float64 import DEVICE, Elsewhere, mapped, moved, without_float64

SAMPLES, T, LINES, WIDTH = 3, 2, 40, 30


@pytest.fixture(autouse=True)
def device_without_float64():
    ops.has_float64.cache_clear()
    with without_float64():
        yield
    ops.has_float64.cache_clear()


def both(*size: int) -> tuple[torch.Tensor, Elsewhere]:
    here = torch.randn(size)
    return here, Elsewhere(here)


def near(result: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> bool:
    result = result.values_on_cpu if isinstance(result, Elsewhere) else result
    return bool((result - expected).norm() <= tolerance * expected.norm())


def test_the_device_refuses_float64():
    here, there = both(3)
    assert not ops.has_float64(DEVICE) and ops.has_float64(here.device)
    with pytest.raises(TypeError, match="no float64|to float64"):
        there.double()
    with pytest.raises(TypeError, match="no float64"):
        there.sum(dtype=torch.float64)
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    assert torch.equal(ops.to_float64(there), here.double())


@pytest.mark.parametrize("exact", [False, True])
def test_reductions_equal_those_with_float64(exact):
    here, there = both(SAMPLES, 40_000)
    u, u_there = both(40_000)
    for result, expected in zip(
        inner_products(there, u_there, exact), inner_products(here, u, exact)
    ):
        assert result.dtype == torch.float64 and near(result, expected)
    weights = torch.randn(SAMPLES, dtype=torch.float64)
    result = weighted_sum(there, weights, exact=exact)
    assert isinstance(result, Elsewhere)
    assert near(result, weighted_sum(here, weights, exact=exact))


def test_lengths_and_directions_equal_those_with_float64():
    for size in ((5,), (3000,)):
        (x, x_there), (y, y_there) = both(*size), both(*size)
        assert near(squared_norm(x_there), x.double().square().sum())
        assert near(dot([x_there], [y_there]), x.double() @ y.double(), 1e-5)
        assert near(ops.sum_float64(x_there), x.double().sum(), 1e-4)
    here, there = both(6, 6)
    result, expected = main_directions(there @ there.T, 0.8), main_directions(here @ here.T, 0.8)
    assert isinstance(result, Elsewhere) and near(result, expected, 1e-4)


@pytest.mark.parametrize("strategy", ["materialise", "ghost"])
@pytest.mark.parametrize("dependent", [False, True])
def test_the_projection_of_a_parameter(strategy, dependent):
    """From the rows to the gradient, also for rows that are too nearly dependent for float32."""
    B, X, u = (
        torch.randn(SAMPLES, T, LINES),
        torch.randn(SAMPLES, T, WIDTH),
        torch.randn(LINES, WIDTH),
    )
    ids = torch.randint(LINES, (SAMPLES, T))
    if dependent:
        B[1], X[1], ids[1] = B[0] * (1 + 1e-6), X[0], ids[0]
    results = []
    for to in (lambda x: x, Elsewhere):
        parameter = torch.nn.Parameter(to(torch.zeros(LINES, WIDTH)))
        uses = [Product(to(B), to(X)), Lookup(to(X), to(ids), LINES)]
        rows, its_u = ParameterRows(parameter, uses, strategy), to(u)
        solution, exact = measure_and_solve(
            functools.partial(rows.products, its_u), squared_norm(its_u)
        )
        assert exact == dependent
        results.append(its_u - rows.weighted(solution.coefficients, exact))
    assert isinstance(results[1], Elsewhere) and near(results[1], results[0], 1e-5)
    G = torch.stack([B[n].T @ X[n] for n in range(SAMPLES)]).double()
    G = torch.stack([G[n].index_add(0, ids[n], X[n].double()) for n in range(SAMPLES)]).flatten(1)
    left = (G @ results[1].values_on_cpu.double().flatten()).abs() / (
        G.norm(dim=1) * u.double().norm()
    )
    assert left.max() < 1e-5


def test_products_of_rows_equal_those_with_float64():
    G, u = torch.randn(SAMPLES, LINES, WIDTH), torch.randn(LINES, WIDTH)
    rows = ParameterRows(
        torch.nn.Parameter(Elsewhere(torch.zeros(LINES, WIDTH))), [Dense(Elsewhere(G))]
    )
    K, b = rows.products(Elsewhere(u))
    assert near(K, G.flatten(1).double() @ G.flatten(1).double().T)
    assert near(b, G.flatten(1).double() @ u.double().flatten(), 1e-5)


@pytest.mark.parametrize("granularity", ["parameter", "model"])
def test_a_step_equals_that_with_float64(granularity, tmp_path):
    """The same step as on a device with float64, up to rounding to float32, also by the fast
    path."""
    start = tiny_vit()
    models = [copy.deepcopy(start) for _ in range(2)]
    trainers = [
        make_trainer(
            model,
            tmp_path,
            images(2, seed=1),
            images(3, seed=2),
            collator=collate_images,
            granularity=granularity,
            logging_steps=1,
        )
        for model in models
    ]
    trainers[0].train()
    train_there(trainers[1])
    logs = [trainer.state.log_history[0] for trainer in trainers]
    for name in ("forget_loss", "retain_loss", "kept", "rank"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-5)
    assert logs[1]["residual"] < 1e-5
    assert (
        trainers[1].training_run.checked_model.samples.engine_choice.one_by_one is False
        and not trainers[1].training_run.checked_model.samples.engine_choice.engine.slow
    )
    expected, result = (
        torch.cat([(p.data - q).flatten() for p, q in zip(model.parameters(), start.parameters())])
        for model in models
    )
    assert near(result, expected, 1e-5)


def train_there(trainer: UnlearnTrainer) -> None:
    """Trains on the device without float64; the parameters' values are on the CPU afterwards."""

    def there(tensor: torch.Tensor) -> Elsewhere:
        return tensor if isinstance(tensor, Elsewhere) else Elsewhere(tensor)

    moved(trainer.model)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1.0)
    trainer.accelerator.device_placement = False
    with (
        mock.patch.object(type(trainer.args), "device", DEVICE),
        mock.patch.object(trainer, "_move_model_to_device"),
        mock.patch.object(
            trainer, "_prepare_inputs", lambda batch: mapped(batch, torch.Tensor, there)
        ),
    ):
        trainer.train()
    for module in trainer.model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = torch.nn.Parameter(p.data.values_on_cpu)
