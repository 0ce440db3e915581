"""Every strategy gives the inner products of the written-out rows; the cheapest is chosen."""

import pytest
import torch
from torch import nn

from hf_unlearn import ops
from hf_unlearn.ops import dispatch, reductions
from hf_unlearn.per_sample import ParameterRows
from hf_unlearn.per_sample import inner_products as ip
from hf_unlearn.per_sample.rows import Convolved, Dense, Lookup, Product, Scaled
from hf_unlearn.per_sample.rows import written_out as rows_written_out


def product(k, T, o, i, dtype=torch.float32):
    return Product(torch.randn(k, T, o, dtype=dtype), torch.randn(k, T, i, dtype=dtype))


def lookup(k, T, o, i):
    return Lookup(torch.randn(k, T, i), torch.randint(o, (k, T)), o)


def convolved(k, T, o, i):
    """A convolution with kernel size 3 and stride 2."""
    return Convolved(torch.randn(k, 2, o, T), torch.randn(k, 2, i // 3, 2 * T + 1), [3], stride=2)


def written_out(use, o, i):
    """G (k, o, i) in float64, one position at a time."""
    G = torch.zeros(use.k, o, i, dtype=torch.float64)
    for n in range(use.k):
        if isinstance(use, Dense):
            G[n] = use.G[n]
            continue
        if isinstance(use, Convolved):
            for B, X in zip(use.B[n].double(), use.X[n].double()):
                for t in range(B.shape[1]):
                    G[n] += torch.outer(B[:, t], X[:, 2 * t : 2 * t + 3].flatten())
            continue
        for t in range(use.positions):
            if isinstance(use, Product):
                G[n] += torch.outer(use.B[n, t].double(), use.X[n, t].double())
            else:
                G[n, use.ids[n, t]] += use.B[n, t].double()
    return G


def written_again(uses):
    """The rows with the rounding that `products` uses; it depends on how many lines are computed at
    a time."""
    lookup = len(uses) == 1 and isinstance(uses[0], Lookup)
    if lookup or ip.are_kept(uses[0].k, LINES * WIDTH, torch.device("cpu")):
        return rows_written_out(uses, LINES, WIDTH).flatten(1).double()
    return torch.cat([rows.double() for _, rows in ip.line_blocks(uses, LINES, WIDTH)], 1)


LINES, WIDTH = 37, 12
USES = {
    "product": lambda: [product(5, 4, LINES, WIDTH)],
    "one position": lambda: [product(5, 1, LINES, WIDTH)],
    "one sample": lambda: [product(1, 4, LINES, WIDTH)],
    "lookup": lambda: [lookup(5, 9, LINES, WIDTH)],
    "tied": lambda: [lookup(5, 3, LINES, WIDTH), product(5, 4, LINES, WIDTH)],
    "reused": lambda: [
        product(5, 4, LINES, WIDTH),
        lookup(5, 2, LINES, WIDTH),
        product(5, 2, LINES, WIDTH),
        lookup(5, 6, LINES, WIDTH),
    ],
    "convolution": lambda: [convolved(5, 6, LINES, WIDTH)],
    "shared kernels": lambda: [
        convolved(5, 6, LINES, WIDTH),
        convolved(5, 4, LINES, WIDTH),
        product(5, 4, LINES, WIDTH),
    ],
    "dense": lambda: [Dense(torch.randn(5, LINES, WIDTH))],
    "all kinds": lambda: [
        Dense(torch.randn(5, LINES, WIDTH)),
        product(5, 4, LINES, WIDTH),
        lookup(5, 3, LINES, WIDTH),
        convolved(5, 6, LINES, WIDTH),
    ],
}


@pytest.fixture
def interpreted(monkeypatch):
    """Kernels run on the CPU."""
    pytest.importorskip("triton", reason="triton is not installed")
    if torch.cuda.is_available():
        pytest.skip("where there is a GPU, kernels are compiled for it")
    monkeypatch.setenv(dispatch.VARIABLE, "triton")


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("strategy", ["materialise", "ghost", None])
@pytest.mark.parametrize("name", USES)
def test_all_strategies_equal_rows_written_out(monkeypatch, name, strategy, exact, kept):
    monkeypatch.setattr(ip, "BLOCK_VALUES", {"cpu": 200})
    monkeypatch.setattr(reductions, "FLOAT32_COLUMNS", 100)
    monkeypatch.setattr(ip, "KEPT_VALUES", {"cpu": 2**20 if kept else 0})
    uses, u = USES[name](), torch.randn(LINES, WIDTH)
    G = sum(written_out(use, LINES, WIDTH) for use in uses).flatten(1)
    rows = ParameterRows(nn.Parameter(torch.zeros(LINES, WIDTH)), uses, strategy)
    weights = torch.randn(len(G), dtype=torch.float64)
    # The second time, the rows that were kept are used.
    for _ in range(2):
        K, b = rows.products(u, exact)
        assert (K - G @ G.T).norm() <= 1e-6 * (G @ G.T).norm()
        assert (b - G @ u.flatten().double()).norm() <= 1e-6 * G.norm() * u.norm()
    assert (
        rows.weighted(weights).flatten() - weights @ G
    ).norm() <= 1e-6 * weights.norm() * G.norm()
    if exact:
        # The sum is returned in the dtype of the parameter.
        rows.parameter.data = rows.parameter.data.double()
        result, again = rows.weighted(weights, exact).flatten(), written_again(rows.uses)
        assert (result - weights @ again).norm() <= 1e-13 * weights.norm() * G.norm()


@pytest.mark.parametrize(
    "name, blocks", [("convolution", 2), ("shared kernels", 2), ("product", 37)]
)
def test_a_convolution_is_written_in_few_blocks(monkeypatch, name, blocks):
    """Each block takes a call for each sample, however few lines it has."""
    uses = USES[name]()
    monkeypatch.setattr(ip, "BLOCK_VALUES", {"cpu": 5 * WIDTH})
    monkeypatch.setattr(ip, "KEPT_VALUES", {"cpu": 5 * WIDTH * 20})
    parts = list(ip.line_blocks(uses, LINES, WIDTH))
    assert [start for start, _ in parts] == list(range(0, LINES, 20 if blocks == 2 else 1))
    assert len(parts) == blocks


def test_rows_that_share_memory_can_be_used_again_later():
    """A visitor may come back to a parameter whose kept rows have been overwritten."""
    buffer, u, weights = ip.Buffer(), torch.randn(LINES, WIDTH), torch.randn(5)
    first, second = (
        ParameterRows(torch.zeros_like(u), [product(5, 4, LINES, WIDTH)], "materialise", buffer)
        for _ in range(2)
    )
    (K, b), expected = first.products(u), first.weighted(weights)
    first.drop_kept()
    second.products(u)
    again, b_again = first.products(u)
    assert torch.equal(again, K) and torch.equal(b_again, b)
    first.drop_kept()
    second.products(u)
    assert torch.allclose(first.weighted(weights), expected, atol=1e-4)


@pytest.mark.parametrize("exact, tolerance", [(False, 1e-5), (True, 1e-12)])
def test_inner_products_of_many_rows(monkeypatch, exact, tolerance):
    monkeypatch.setattr(reductions, "FLOAT32_COLUMNS", 100)
    rows, u = torch.randn(reductions.MANY_ROWS + 3, 250), torch.randn(250)
    K, b = reductions.inner_products(rows, u, exact)
    assert torch.allclose(K, rows.double() @ rows.double().T, atol=250 * tolerance)
    assert torch.allclose(b, rows.double() @ u.double(), atol=250 * tolerance)


@pytest.mark.parametrize("name", ["product", "lookup", "tied", "reused"])
def test_ghost_equals_rows_written_out_in_float64(name):
    """As on GPUs with fast float64."""
    uses, u = USES[name](), torch.randn(LINES, WIDTH)
    G = sum(written_out(use, LINES, WIDTH) for use in uses).flatten(1)
    K, b = ip.ghost(uses, u, exact=True)
    assert (K - G @ G.T).norm() <= 1e-12 * (G @ G.T).norm()
    assert (b - G @ u.flatten().double()).norm() <= 1e-12 * G.norm() * u.norm()


@pytest.mark.parametrize("o, i", [(7, 40), (40, 7), (9, 9)])
def test_ghost_works_for_wide_and_for_tall_weights(o, i):
    use, u = product(3, 5, o, i), torch.randn(o, i)
    G = written_out(use, o, i).flatten(1).double()
    _, b = ip.ghost([use], u, exact=True)
    assert (b - G @ u.flatten().double()).norm() <= 1e-6 * G.norm() * u.norm()


def test_a_scaled_gradient_does_not_overflow_in_float16():
    use, u = product(4, 5, LINES, WIDTH, torch.float16), 1e6 * torch.randn(LINES, WIDTH)
    expected = written_out(use, LINES, WIDTH).flatten(1) @ u.flatten().double()
    _, b = ip.ghost([use], u, exact=False)
    assert (b - expected).norm() <= 1e-5 * expected.norm()


def test_half_precision_is_summed_in_higher_precision():
    uses = [product(4, 50, LINES, WIDTH, torch.bfloat16)]
    G = written_out(uses[0], LINES, WIDTH).flatten(1)
    for strategy in ip.STRATEGIES:
        K, b = ParameterRows(nn.Parameter(torch.zeros(LINES, WIDTH)), uses, strategy).products(
            torch.ones(LINES, WIDTH)
        )
        assert (K - G @ G.T).norm() <= 1e-2 * (G @ G.T).norm()
        assert (b - G.sum(1)).norm() <= 1e-2 * G.norm() * (LINES * WIDTH) ** 0.5


@pytest.mark.parametrize("name", USES)
def test_fused_where_it_is_available(interpreted, monkeypatch, name):
    """A single product goes to the kernel; all other uses do not."""
    uses, u = USES[name](), torch.randn(LINES, WIDTH)
    G = sum(written_out(use, LINES, WIDTH) for use in uses).flatten(1)
    called, kernel = [], dispatch.load_kernels().product_inner_products
    monkeypatch.setattr(
        dispatch.load_kernels(), "product_inner_products", lambda *a: called.append(a) or kernel(*a)
    )
    # The first call checks the kernel, which calls it.
    ops.fused_kernel_available(u.device)
    called.clear()
    rows = ParameterRows(nn.Parameter(torch.zeros(LINES, WIDTH)), uses, "fused")
    K, b = rows.products(u)
    assert bool(called) == (len(uses) == 1 and isinstance(uses[0], Product))
    assert (K - G @ G.T).norm() <= 1e-6 * (G @ G.T).norm()
    assert (b - G @ u.flatten().double()).norm() <= 1e-6 * G.norm() * u.norm()
    weights = torch.randn(len(G), dtype=torch.float64)
    assert (
        rows.weighted(weights).flatten() - weights @ G
    ).norm() <= 1e-6 * weights.norm() * G.norm()


def test_costs_assume_the_block_size_of_the_kernel():
    pytest.importorskip("triton", reason="triton is not installed")
    from hf_unlearn.ops import triton_products

    assert ip.FUSED_BLOCK == triton_products.SAMPLE_BLOCK


def test_float64_products_are_not_fused(interpreted):
    use = product(3, 4, LINES, WIDTH, torch.float64)
    assert ip.choose([use], torch.zeros(LINES, WIDTH), "fused") == "materialise"


@pytest.mark.parametrize(
    "k, T, o, i, strategy",
    [
        # a head on pooled features
        (8, 1, 1000, 768, "ghost"),
        # an output layer over a vocabulary
        (4, 40, 51865, 384, "ghost"),
        # an encoder's attention
        (8, 500, 384, 384, "materialise"),
        (32, 40, 51865, 384, "materialise"),
    ],
)
def test_the_strategy_depends_on_the_shape(k, T, o, i, strategy):
    use = Product(torch.zeros(k, T, 1).expand(k, T, o), torch.zeros(k, T, i))
    assert ip.choose([use], torch.zeros(1, 1).expand(o, i)) == strategy


@pytest.mark.parametrize("k, strategy", [(4, "ghost"), (8, "ghost"), (32, "materialise")])
def test_the_strategy_for_tied_weights_depends_on_the_number_of_samples(k, strategy):
    """Whisper's: the output gradients of two look-ups need no product as wide as the vocabulary."""
    T, lines, width = 40, 51865, 384
    B, X, ids = (
        torch.zeros(1).expand(k, T, lines),
        torch.zeros(k, T, width),
        torch.zeros(k, T, dtype=torch.long),
    )
    assert (
        ip.choose([Product(B, X), Lookup(X, ids, lines)], torch.zeros(1, 1).expand(lines, width))
        == strategy
    )


@pytest.mark.parametrize(
    "size, k, T, o, i, strategy",
    [
        # an encoder's attention
        (2, 16, 1500, 768, 768, "materialise"),
        # a decoder's
        (2, 16, 40, 768, 768, "fused"),
        (2, 64, 40, 768, 768, "materialise"),
        (2, 16, 1, 1000, 768, "ghost"),
        (4, 16, 500, 768, 768, "materialise"),
        (4, 16, 40, 3072, 768, "fused"),
        (4, 4, 10, 3072, 768, "ghost"),
    ],
)
def test_choice_on_a_card_with_fast_float64(monkeypatch, size, k, T, o, i, strategy):
    """By the card's data sheet; tests/benchmarks/bench_ways.py measures the times."""
    monkeypatch.setattr(ip, "CPU", ip.CUDA[size])
    monkeypatch.setattr(ip, "KEPT_VALUES", {"cpu": ip.KEPT_VALUES["cuda"]})
    monkeypatch.setattr(ip.ops, "doubles_are_fast", lambda device: True)
    monkeypatch.setattr(ip.ops, "fused_kernel_available", lambda device: True)
    use = Product(torch.zeros(k, T, 1).expand(k, T, o), torch.zeros(k, T, i))
    assert ip.choose([use], torch.zeros(1, 1).expand(o, i)) == strategy


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="'ghosts', but must be one of materialise, ghost, fused"):
        ip.choose([product(2, 2, LINES, WIDTH)], torch.zeros(LINES, WIDTH), "ghosts")


def test_scaled_rows_give_weighted_sums_and_places_among_zeros():
    uses = [product(1, 4, LINES, WIDTH), Dense(torch.randn(1, LINES, WIDTH))]
    scale = torch.rand(LINES, WIDTH)
    rows, expected = Scaled(uses, scale), rows_written_out(uses, LINES, WIDTH) * scale
    weighted = rows.weighted(torch.tensor([2.0]))
    torch.testing.assert_close(weighted, 2 * expected[0].flatten())
    torch.testing.assert_close(rows.weighted(torch.ones(1), weighted), 3 * expected[0].flatten())
    among = rows_written_out([rows.among_zeros(1, 3)], LINES, WIDTH)
    torch.testing.assert_close(among[1], expected[0])
    assert not among[0].any() and not among[2].any()
