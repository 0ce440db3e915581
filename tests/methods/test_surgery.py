"""Gradient surgery, compared with plain implementations of its formulas."""

import pytest
import torch

from hf_unlearn.methods import METHODS
from hf_unlearn.methods.vectors import project_off
from tests.methods.formulas import SHAPES, agreeing, conflicting, flat, random_gradients


@pytest.mark.parametrize("inputs", [conflicting, agreeing])
def test_pcgrad_and_agem_are_their_formulas(inputs):
    u, r = inputs()
    a, b = -flat(u), flat(r)
    conflict = bool(a @ b < 0)
    assert conflict == (inputs is conflicting)
    a_off = a - (a @ b) / (b @ b) * b if conflict else a
    b_off = b - (a @ b) / (a @ a) * a if conflict else b
    zero = torch.zeros(())
    torch.testing.assert_close(flat(METHODS["agem"]().combine(u, r, zero)), a_off)
    torch.testing.assert_close(
        flat(METHODS["pcgrad"](alpha=0.3).combine(u, r, zero)), 0.3 * b_off + 0.7 * a_off
    )


@pytest.mark.parametrize("inputs", [conflicting, agreeing])
def test_gdr_gma_projects_each_tensor_and_weights_by_the_retain_loss(inputs):
    u, r = inputs()
    loss, gamma, eps = 0.5, 3.0, 0.2
    weight = 1 / (1 + torch.tensor(gamma * (loss - eps), dtype=torch.float64).exp())
    for got, x, y in zip(METHODS["gdr_gma"](gamma, eps).combine(u, r, torch.tensor(loss)), u, r):
        ascent, descent = -x, y
        if (ascent * y).sum() < 0:
            ascent = -x - (-x * y).sum() / (y * y).sum() * y
            descent = y - (y * -x).sum() / (x * x).sum() * -x
        expected = (1 - weight) * descent + weight * ascent
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("granularity", ["model", "parameter"])
def test_the_mean_ablation_is_orthogonal_to_the_mean(granularity):
    u, r = conflicting()
    got = METHODS["orthograd_mean"](0.0, granularity).combine(u, r, torch.zeros(()))
    pairs = [(flat(got), flat(r))] if granularity == "model" else list(zip(got, r))
    assert all(abs(float((x * y).sum())) < 1e-12 * float(y.norm() * x.norm()) for x, y in pairs)
    assert flat(got).norm() > 0
    weighted = METHODS["orthograd_mean"](0.4, granularity).combine(u, r, torch.zeros(()))
    torch.testing.assert_close(flat(weighted), 0.4 * flat(r) + 0.6 * flat(got))


def test_zero_gradients_are_not_divided_by():
    u, zero = random_gradients(1), [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
    assert all(torch.equal(x, y) for x, y in zip(project_off(u, zero), u))
    for name in ("pcgrad", "agem", "gdr_gma", "orthograd_mean", "scissorhands"):
        for pair in ((u, zero), (zero, u), (zero, zero)):
            assert all(x.isfinite().all() for x in METHODS[name]().combine(*pair, torch.zeros(())))
