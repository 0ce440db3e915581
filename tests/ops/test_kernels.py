"""Triton kernels and their plain torch counterparts against float64.

The kernels are interpreted on a CPU and compiled on a GPU.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip(
        "kernels need a GPU, or TRITON_INTERPRET=1 to be interpreted", allow_module_level=True
    )

# Only now: importing the kernels imports Triton.
from hf_unlearn.ops import projection, reductions, triton_products, triton_reductions, triton_solve  # noqa: E402
from tests.ops.cosines import largest_cosine  # noqa: E402

IMPLEMENTATIONS = {"plain": reductions, "kernel": triton_reductions}
# k, d: one and several tiles of columns, programs and blocks of rows, both full and partly filled
SHAPES = [
    (1, 1),
    (1, 1000),
    (2, 129),
    (16, 128),
    (16, 4097),
    (17, 260),
    (33, 65),
    (64, 200),
    (65, 130),
    (130, 70),
]
ROUNDING = {torch.float64: 1e-15, torch.float32: 1e-7, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.fixture(params=IMPLEMENTATIONS)
def ops(request):
    return IMPLEMENTATIONS[request.param]


def largest_error(result, expected, scale) -> float:
    return float(((result - expected).abs() / scale.clamp_min(1e-300)).max())


@pytest.mark.parametrize(
    "dtype, exact",
    [(dtype, False) for dtype in ROUNDING] + [(torch.float32, True), (torch.bfloat16, True)],
)
@pytest.mark.parametrize("k, d", SHAPES)
def test_inner_products_equal_float64(ops, k, d, dtype, exact):
    rows = (torch.randn(k, d, device=DEVICE) * torch.logspace(-2, 2, k, device=DEVICE)[:, None]).to(
        dtype
    )
    u = torch.randn(d, device=DEVICE)
    K, b = ops.inner_products(rows, u, exact)
    wide, lengths = rows.double(), rows.double().norm(dim=1)
    assert K.dtype == b.dtype == torch.float64
    tolerance = 1e-14 if exact or dtype == torch.float64 else 1e-6
    assert largest_error(K, wide @ wide.T, lengths[:, None] * lengths) <= tolerance
    assert largest_error(b, wide @ u.double(), lengths * u.double().norm()) <= tolerance


def test_inner_products_of_rows_with_any_strides(ops):
    storage = torch.randn(5, 1000, device=DEVICE)
    for rows in (storage[:, 3:400], storage[:, ::3], storage[::2], storage[:, :7].T):
        u = torch.randn(rows.shape[1], device=DEVICE)
        K, b = ops.inner_products(rows, u, True)
        assert torch.allclose(K, rows.double() @ rows.double().T, rtol=1e-14, atol=1e-13)
        assert torch.allclose(b, rows.double() @ u.double(), rtol=1e-14, atol=1e-12)


def test_half_precision_is_widened_a_few_columns_at_a_time(monkeypatch):
    monkeypatch.setattr(triton_reductions, "WIDENED", 600)
    rows, u = torch.randn(3, 500, device=DEVICE).half(), torch.randn(500, device=DEVICE)
    K, b = triton_reductions.inner_products(rows, u, True)
    assert torch.allclose(K, rows.double() @ rows.double().T, rtol=1e-14, atol=1e-12)
    assert torch.allclose(b, rows.double() @ u.double(), rtol=1e-14, atol=1e-12)


def test_inner_products_are_the_same_bits_each_time(ops):
    rows, u = torch.randn(7, 5000, device=DEVICE), torch.randn(5000, device=DEVICE)
    first, second = (torch.vstack(ops.inner_products(rows, u, False)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
# from the interpreter's numpy
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_non_finite_values_stay_non_finite(ops, value):
    rows = torch.randn(3, 300, device=DEVICE)
    rows[1, 290] = value
    K, b = ops.inner_products(rows, torch.randn(300, device=DEVICE), False)
    assert not K[1].isfinite().any() and not b[1].isfinite()
    assert K[0, [0, 2]].isfinite().all() and b[[0, 2]].isfinite().all()
    total = ops.weighted_sum(rows, torch.ones(3, device=DEVICE), torch.float32)
    assert not total[290].isfinite() and total[:290].isfinite().all()


@pytest.mark.parametrize("out", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k, d", SHAPES)
def test_weighted_sums_equal_float64(ops, k, d, dtype, out):
    rows = torch.randn(k, d, device=DEVICE).to(dtype)
    weights = torch.randn(k, dtype=torch.float64, device=DEVICE)
    result = ops.weighted_sum(rows, weights, out)
    expected, size = weights @ rows.double(), weights.abs() @ rows.double().abs()
    assert result.dtype == out
    assert largest_error(result.double(), expected, size) <= 5 * ROUNDING[out]


def test_weighted_sum_of_rows_with_any_strides(ops):
    storage, weights = torch.randn(5, 1000, device=DEVICE), torch.randn(5, device=DEVICE)
    for rows in (storage[:, 3:400], storage[:, ::3]):
        result = ops.weighted_sum(rows, weights, rows.dtype)
        assert torch.allclose(result, weights @ rows, atol=1e-5)


# ---- inner products of rows that are products ----------------------------------------------------

PRODUCTS = {"plain": reductions, "kernel": triton_products}
# k, T, o, i: one and several blocks of samples, tiles and positions, both full and partly filled
PRODUCT_SHAPES = [
    (1, 1, 1, 1),
    (3, 16, 64, 32),
    (16, 5, 65, 33),
    (7, 33, 40, 100),
    (17, 4, 10, 70),
    (40, 2, 70, 5),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k, T, o, i", PRODUCT_SHAPES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_inner_products_of_matrix_products_equal_float64(name, k, T, o, i, dtype):
    B, X = (torch.randn(k, T, size, device=DEVICE).to(dtype) for size in (o, i))
    B = (B * torch.logspace(-2, 2, k, device=DEVICE)[:, None, None]).to(dtype)
    u = torch.randn(o, i, device=DEVICE)
    K, b = PRODUCTS[name].product_inner_products(B, X, u)
    rows = torch.einsum("nto,nti->noi", B.double(), X.double()).flatten(1)
    lengths = rows.norm(dim=1)
    assert K.dtype == b.dtype == torch.float64
    assert largest_error(K, rows @ rows.T, lengths[:, None] * lengths) <= 1e-6
    assert largest_error(b, rows @ u.flatten().double(), lengths * u.double().norm()) <= 1e-6


def test_nearly_dependent_products_keep_their_rank():
    """The kernel's K is that of one matrix of rounded tiles, accurate to float64."""
    B, X = torch.randn(6, 4, 70, device=DEVICE), torch.randn(6, 4, 40, device=DEVICE)
    X[3:], B[3:] = X[:3], B[:3] + 1e-4 * torch.randn(3, 4, 70, device=DEVICE)
    X[5] = X[2]
    # Doubling does not round.
    B[5] = 2 * B[2]
    K, _ = triton_products.product_inner_products(B, X, torch.zeros(70, 40, device=DEVICE))
    solution = projection.solve(K, K.sum(1), K.sum())
    assert int(solution.rank) == 5
    values = torch.linalg.eigvalsh(K / K.diagonal().sqrt() / K.diagonal().sqrt()[:, None])
    assert values[0].abs() <= 1e-14 and 1e-10 <= values[1] <= 1e-6


def test_inner_products_of_products_from_views():
    whole, u = torch.randn(5, 9, 90, device=DEVICE), torch.randn(36, 70, device=DEVICE).T
    B, X = whole[:, :, 7:77], whole[:, :, 54:]
    expected = reductions.product_inner_products(B, X, u)
    result = triton_products.product_inner_products(B, X, u)
    assert all(torch.allclose(*pair, rtol=1e-5, atol=1e-3) for pair in zip(result, expected))
    again = triton_products.product_inner_products(B, X, u)
    assert all(torch.equal(*pair) for pair in zip(result, again))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("name", PRODUCTS)
# from the interpreter's numpy
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_non_finite_sample_does_not_affect_the_others(name, value):
    B, X = torch.randn(18, 3, 20, device=DEVICE), torch.randn(18, 3, 10, device=DEVICE)
    B[1, 2, 19] = value
    K, b = PRODUCTS[name].product_inner_products(B, X, torch.randn(20, 10, device=DEVICE))
    others = [n for n in range(18) if n != 1]
    assert not K[1].isfinite().any() and not K[:, 1].isfinite().any() and not b[1].isfinite()
    assert K[others][:, others].isfinite().all() and b[others].isfinite().all()


# ---- the k x k system ----------------------------------------------------------------------------


def nearly_repeated(k: int, distance: float) -> torch.Tensor:
    rows = torch.randn(k, 500)
    rows[k // 2 :] = rows[: k - k // 2] + distance * torch.randn(k - k // 2, 500)
    return rows


# name -> rows in float32, and their rank (None: it depends on the threshold)
SYSTEMS = {
    **{f"rank {r} of 6": (lambda r=r: torch.randn(6, r) @ torch.randn(r, 80), r) for r in range(7)},
    "one row": (lambda: torch.randn(1, 30), 1),
    "one row, zero": (lambda: torch.zeros(1, 30), 0),
    "as many as columns": (
        lambda: torch.linalg.qr(torch.randn(20, 20))[0] + 0.1 * torch.randn(20, 20),
        20,
    ),
    "more than columns": (lambda: torch.randn(20, 8), 8),
    "10 of 18": (lambda: torch.randn(18, 10) @ torch.randn(10, 400), 10),
    "repeated": (lambda: torch.randn(7, 90)[torch.tensor([0, 1, 2, 1, 0, 3, 4, 5, 6, 6])], 7),
    "opposite": (
        lambda: torch.randn(3, 90)[[0, 1, 2, 0]] * torch.tensor([[1.0], [1], [1], [-5]]),
        3,
    ),
    "with zeros": (
        lambda: torch.cat([torch.zeros(2, 90), torch.randn(5, 90), torch.zeros(1, 90)]),
        5,
    ),
    "all zero": (lambda: torch.zeros(4, 30), 0),
    **{
        f"at distance {x}": (lambda x=x: nearly_repeated(8, x), 8 if x >= 1e-4 else None)
        for x in (1e-2, 1e-3, 1e-4, 1e-5, 3e-6, 1e-6)
    },
    "at distance 1e-8": (lambda: nearly_repeated(8, 1e-8), 4),
}
SCALES = {"1": lambda k: torch.ones(k), "1e-8 to 1e8": lambda k: torch.logspace(-8, 8, k)}


def system(rows, u):
    rows, u = rows.double().to(DEVICE), u.double().to(DEVICE)
    return rows @ rows.T, rows @ u, u @ u


def remains(solution, rows, u):
    """u_perp in float64."""
    return u.double() - solution.coefficients.cpu() @ rows.double()


def householder(rows, u):
    """u_perp by Householder QR; for independent rows."""
    Q = torch.linalg.qr((rows.double() / rows.double().norm(dim=1, keepdim=True)).T).Q
    return u.double() - Q @ (Q.T @ u.double())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SYSTEMS)
def test_solve_keeps_what_its_docstring_promises(name, scale):
    make, rank = SYSTEMS[name]
    rows = make()
    rows, u = rows * SCALES[scale](len(rows))[:, None], torch.randn(rows.shape[1])
    solution = triton_solve.solve(*system(rows, u))
    left = remains(solution, rows, u)
    assert largest_cosine(left, u, rows) <= triton_solve.PIVOT_TOLERANCE**0.5
    assert rank in (None, int(solution.rank))
    assert torch.isclose(
        solution.kept.cpu(), left @ left, rtol=1e-6, atol=1e-9 * float(u.double() @ u.double())
    )
    if solution.rank == len(rows):
        assert largest_cosine(left, u, rows) <= 1e-9
        error = (left - householder(rows, u)).norm() / u.double().norm()
        assert error <= 1e-14 * len(rows) / solution.pivot.cpu()
        assert 0 < solution.pivot <= 1
    else:
        assert solution.pivot == 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_solve_agrees_with_the_plain_version(name):
    make, rank = SYSTEMS[name]
    rows = make()
    u = torch.randn(rows.shape[1])
    kernel, plain = triton_solve.solve(*system(rows, u)), projection.solve(*system(rows, u))
    if rank is None and kernel.rank != plain.rank:
        pytest.skip("a row lies between the two thresholds")
    assert kernel.rank == plain.rank
    difference = remains(kernel, rows, u) - remains(plain, rows, u)
    assert difference.norm() <= 1e-14 * len(rows) * u.norm() / max(1e-9, float(kernel.pivot))
    assert torch.isclose(kernel.kept, plain.kept, rtol=1e-6, atol=1e-6 * float(u @ u))


def test_solve_of_more_rows_than_one_warp_holds():
    rows, u = torch.randn(70, 65) @ torch.randn(65, 300), torch.randn(300)
    solution = triton_solve.solve(*system(rows, u))
    assert solution.rank == 65
    assert largest_cosine(remains(solution, rows, u), u, rows) <= 1e-6


def test_solve_does_not_depend_on_order_scale_repetition_or_zero_rows():
    rows, u = torch.randn(5, 100), torch.randn(100)
    expected = remains(triton_solve.solve(*system(rows, u)), rows, u)
    for variant in (
        rows.flip(0),
        rows * torch.tensor([1e-6, 1.0, 1e6, -3.0, 1e-2])[:, None],
        torch.cat([rows, rows, rows[:2]]),
        torch.cat([torch.zeros(3, 100), rows]),
    ):
        left = remains(triton_solve.solve(*system(variant, u)), variant, u)
        assert torch.allclose(left, expected, atol=1e-6)
        assert torch.allclose(
            remains(triton_solve.solve(*system(variant, left)), variant, left), left, atol=1e-6
        )


# from the interpreter's numpy
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_solve_takes_many_systems_and_a_non_finite_one_does_not_affect_the_others():
    rows, u = torch.randn(4, 6, 50), torch.randn(4, 50)
    systems = [torch.stack(parts) for parts in zip(*map(system, rows, u))]
    systems[0][1, 2, 3], systems[1][2, 0] = torch.nan, torch.inf
    together = triton_solve.solve(*systems)
    for at in (1, 2):
        assert not together.coefficients[at].isfinite().any()
        assert together.rank[at] == 0 and not together.residual[at].isfinite()
    for at in (0, 3):
        alone = triton_solve.solve(*system(rows[at], u[at]))
        assert all(torch.equal(mine[at], its) for mine, its in zip(together, alone))
    plain = projection.solve(*systems)
    assert torch.allclose(plain.coefficients, together.coefficients, equal_nan=True)
    assert plain.rank.shape == (4,)


# ---- compiled ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_there():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).with_name("compile_kernels.py")), "90"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    used = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert len(used) == 23
    for name, what in used.items():
        spilled, shared = map(int, re.search(r"(\d+) bytes of stack, (\d+) shared", what).groups())
        # It spills its tiles once, while their inner products are computed.
        if name.startswith("product_inner_products"):
            assert spilled <= 2048 and shared <= 160 * 1024 and "f64.f64.f64" in what, name
            assert ("tf32.tf32" if "float32" in name else "f16.f32") in what, name
        else:
            assert spilled <= 64, name
    # On tensor cores.
    assert "f64.f64.f64" in used["inner_products k=16 torch.float32 exact=True"]


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_rows_of_more_than_32_bit_offsets_are_read_to_the_end():
    rows = torch.ones(2, 2**31 + 5, dtype=torch.bfloat16, device=DEVICE)
    rows[1, -1] = 3
    u = torch.zeros(rows.shape[1], dtype=rows.dtype, device=DEVICE)
    K, _ = triton_reductions.inner_products(rows, u, False)
    assert K.tolist() == [[2**31 + 5, 2**31 + 7], [2**31 + 7, 2**31 + 13]]
    weights = torch.tensor([1.0, 2.0], device=DEVICE)
    total = triton_reductions.weighted_sum(rows, weights, rows.dtype)
    assert total[-1] == 7 and (total[:-1] == 3).all()


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_a_projection_does_not_wait_for_the_device():
    rows, u = torch.randn(9, 1000, device=DEVICE), torch.randn(1000, device=DEVICE)
    square = u.double() @ u.double()
    B, X = torch.randn(9, 5, 40, device=DEVICE), torch.randn(9, 5, 25, device=DEVICE)

    def project():
        triton_products.product_inner_products(B, X, u.view(40, 25))
        K, b = triton_reductions.inner_products(rows, u, False)
        c = triton_solve.solve(K, b, square).coefficients
        return u - triton_reductions.weighted_sum(rows, c, u.dtype)

    # The first call compiles.
    project()
    torch.cuda.set_sync_debug_mode("error")
    try:
        project()
    finally:
        torch.cuda.set_sync_debug_mode("default")
