"""What runs where: kernels or plain torch, the environment's choice, and the way back when a kernel fails."""

import pytest
import torch

from hf_unlearn import ops
from hf_unlearn.ops import dispatch, reductions


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """As dispatch is before the first call."""
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.setattr(dispatch, "_failures", [])
    dispatch._check.cache_clear()


@pytest.fixture
def warnings(monkeypatch):
    messages = []
    monkeypatch.setattr(dispatch.logger, "warning", messages.append)
    return messages


def test_a_cpu_runs_plain_torch(monkeypatch):
    monkeypatch.setattr(dispatch, "_kernels", lambda: pytest.fail("a CPU tensor went to the kernels"))
    rows, u = torch.randn(3, 50), torch.randn(50)
    assert torch.equal(ops.inner_products(rows, u)[0], reductions.inner_products(rows, u)[0])
    if not torch.cuda.is_available():
        assert ops.active_kernels() == "plain torch (no CUDA)"


def test_the_environment_may_ask_for_kernels(monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    rows, u = torch.randn(3, 50), torch.randn(50)
    if torch.cuda.is_available():
        rows, u = rows.cuda(), u.cuda()
    taken, kernels = [], dispatch._kernels()
    for name in ("inner_products", "weighted_sum", "solve"):
        kernel = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, name=name, kernel=kernel: taken.append(name) or kernel(*a))
    dispatch._check(rows.device)
    taken.clear()
    gram, dots = ops.inner_products(rows, u, exact=True)
    solution = ops.solve(gram, dots, u.double() @ u.double())
    left = ops.weighted_sum(rows, -solution.coefficients, u)
    assert taken == ["inner_products", "solve", "weighted_sum"]
    assert torch.allclose(left, ops.orthogonal_component(u, rows), atol=1e-5)
    ops.weighted_sum(rows.double(), solution.coefficients)
    assert len(taken) == 3  # float64 rows are added up in float64
    assert "triton" in ops.active_kernels() and "plain" not in ops.active_kernels()


def test_the_environment_may_refuse_kernels(monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, "torch")
    monkeypatch.setattr(dispatch, "_kernels", lambda: pytest.fail("went to the kernels"))
    ops.inner_products(torch.randn(3, 50))
    assert ops.active_kernels() == "plain torch (HF_UNLEARN_KERNELS=torch)"
    monkeypatch.setenv(dispatch.VARIABLE, "cuda")
    with pytest.raises(ValueError, match="HF_UNLEARN_KERNELS is 'cuda'"):
        ops.inner_products(torch.randn(3, 50))


def absent():
    raise ImportError("No module named 'triton'")


def wrong():
    class Wrong:
        inner_products = staticmethod(
            lambda rows, u, exact: [2 * x for x in reductions.inner_products(rows, u, exact)]
        )

    return Wrong


@pytest.mark.parametrize("kernels, reason", [(absent, "ImportError: No module"), (wrong, "inner products: a kernel")])
def test_kernels_that_do_not_work_are_left_with_one_warning(monkeypatch, warnings, kernels, reason):
    monkeypatch.setattr(dispatch, "_takes", lambda tensor: True)
    monkeypatch.setattr(dispatch, "_kernels", kernels)
    rows, u = torch.randn(3, 50), torch.randn(50)
    for _ in range(2):
        assert torch.equal(ops.inner_products(rows, u)[0], reductions.inner_products(rows, u)[0])
        ops.weighted_sum(rows, torch.ones(3), u)
    assert len(warnings) == 1 and reason in warnings[0]


def test_kernels_that_were_asked_for_raise(monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    monkeypatch.setattr(dispatch, "_kernels", absent)
    with pytest.raises(ImportError):
        ops.inner_products(torch.randn(3, 50))
