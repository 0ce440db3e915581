"""The choice between kernels and plain torch, and the fallback when a kernel fails."""

from types import SimpleNamespace

import pytest
import torch

from hf_unlearn import ops
from hf_unlearn.ops import dispatch, reductions


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """The state of dispatch before the first call."""
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.setattr(dispatch, "failures", {})
    dispatch.check_kernels.cache_clear()
    dispatch.check_product_kernel.cache_clear()


@pytest.fixture
def warnings(warnings_of):
    return warnings_of(dispatch)


def test_a_cpu_runs_plain_torch(monkeypatch):
    monkeypatch.setattr(
        dispatch, "load_kernels", lambda: pytest.fail("a CPU tensor went to the kernels")
    )
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
    called, kernels = [], dispatch.load_kernels()
    for name in ("inner_products", "weighted_sum", "solve"):
        kernel = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *a, name=name, kernel=kernel: called.append(name) or kernel(*a)
        )
    dispatch.check_kernels(rows.device)
    called.clear()
    K, b = ops.inner_products(rows, u, exact=True)
    solution = ops.solve(K, b, u.double() @ u.double())
    u_perp = u - ops.weighted_sum(rows, solution.coefficients)
    assert called == ["inner_products", "solve", "weighted_sum"]
    assert torch.allclose(u_perp, ops.orthogonal_component(u, rows), atol=1e-5)
    ops.weighted_sum(rows.double(), solution.coefficients)
    # Float64 rows are summed in float64, by plain torch.
    assert len(called) == 3
    assert "triton" in ops.active_kernels() and "plain" not in ops.active_kernels()


def test_the_environment_may_refuse_kernels(monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, "torch")
    monkeypatch.setattr(dispatch, "load_kernels", lambda: pytest.fail("went to the kernels"))
    ops.inner_products(torch.randn(3, 50), torch.randn(50))
    assert ops.active_kernels() == "plain torch (HF_UNLEARN_KERNELS=torch)"
    monkeypatch.setenv(dispatch.VARIABLE, "cuda")
    with pytest.raises(ValueError, match="HF_UNLEARN_KERNELS is 'cuda'"):
        ops.inner_products(torch.randn(3, 50), torch.randn(50))


def absent():
    raise ImportError("No module named 'triton'")


def wrong():
    class Wrong:
        inner_products = staticmethod(
            lambda rows, u, exact: [2 * x for x in reductions.inner_products(rows, u, exact)]
        )

    return Wrong


@pytest.mark.parametrize(
    "kernels, reason", [(absent, "ImportError: No module"), (wrong, "inner products: a kernel")]
)
def test_kernels_that_do_not_work_are_disabled_with_one_warning(
    monkeypatch, warnings, kernels, reason
):
    monkeypatch.setattr(dispatch, "uses_kernels", lambda tensor: True)
    monkeypatch.setattr(dispatch, "load_kernels", kernels)
    rows, u = torch.randn(3, 50), torch.randn(50)
    for _ in range(2):
        assert torch.equal(ops.inner_products(rows, u)[0], reductions.inner_products(rows, u)[0])
        ops.weighted_sum(rows, torch.ones(3))
    assert len(warnings) == 1 and reason in warnings[0]


def test_the_kernel_for_products_is_disabled_by_itself(monkeypatch, warnings):
    """The other kernels stay in use, and products are no longer fused."""
    pytest.importorskip("triton", reason="triton is not installed")
    kernels = vars(dispatch.load_kernels()) | {
        "product_inner_products": lambda B, X, u: (B @ B.mT, B)
    }
    called, solve = [], kernels["solve"]
    kernels["solve"] = lambda *a: called.append("solve") or solve(*a)
    monkeypatch.setattr(dispatch, "load_kernels", lambda: SimpleNamespace(**kernels))
    monkeypatch.setattr(dispatch, "uses_kernels", lambda tensor: True)
    monkeypatch.setattr(dispatch, "doubles_are_fast", lambda device: True)
    B, X, u = torch.randn(3, 4, 10), torch.randn(3, 4, 5), torch.randn(10, 5)
    for _ in range(2):
        result = ops.product_inner_products(B, X, u)
        expected = reductions.product_inner_products(B, X, u)
        assert all(torch.equal(*pair) for pair in zip(result, expected))
        assert not ops.fused_kernel_available(B.device)
    (warning,) = warnings
    assert "kernel for inner products of products does not work" in warning
    ops.solve(torch.eye(2).double(), torch.ones(2).double(), torch.tensor(2.0).double())
    assert "solve" in called


def test_products_are_fused_where_float64_is_fast(monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    cpu = torch.device("cpu")
    assert not ops.fused_kernel_available(cpu)
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    # The kernel is interpreted.
    assert ops.fused_kernel_available(cpu)
    monkeypatch.setenv(dispatch.VARIABLE, "torch")
    monkeypatch.setattr(dispatch, "doubles_are_fast", lambda device: True)
    assert not ops.fused_kernel_available(cpu)


def test_kernels_that_were_asked_for_raise(monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    monkeypatch.setattr(dispatch, "load_kernels", absent)
    with pytest.raises(ImportError):
        ops.inner_products(torch.randn(3, 50), torch.randn(50))
