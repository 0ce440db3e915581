"""Measures the kernels of the projection on a GPU against its copy bandwidth, plain torch and
torch.linalg.qr.

    .venv/bin/python tests/benchmarks/bench_kernels.py           # appends rows to results.csv
    .venv/bin/python tests/benchmarks/bench_kernels.py --tune    # other block sizes, only printed

Without a GPU everything is tiny and no rows are written: this only shows that the script works.

A copy of a matrix moves as many bytes as two reads of it, and a projection has to read its rows
twice. So the share of the copy bandwidth that a projection reaches is the time of the copy divided
by the time of the projection; for a single pass it is half of that. `step_s` is the time of one
call: the median of five means over consecutive calls. `peak_gb` is the memory of a call besides its
input.
"""

import argparse
import functools
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from records import KERNEL, append, run_columns, synchronize
from shapes import SHAPES

from hf_unlearn import ops
from hf_unlearn.ops import projection, reductions
from hf_unlearn.per_sample.inner_products import Buffer, ghost, materialise
from hf_unlearn.per_sample.rows import Product

Tensor = torch.Tensor
# (T, o, i) of whisper-small's linear layers at 30 s of audio.
LAYERS = {
    "encoder attention": (1500, 768, 768),
    "encoder feed-forward": (1500, 3072, 768),
    "decoder attention": (40, 768, 768),
    "decoder feed-forward": (40, 3072, 768),
}


def project(rows: Tensor, u: Tensor, exact: bool = False) -> Tensor:
    """u_perp in two passes over the rows."""
    square = torch.linalg.vector_norm(u, dtype=torch.float64).square()
    solution = ops.solve(*ops.inner_products(rows, u, exact), square)
    return u - ops.weighted_sum(rows, solution.coefficients)


def project_in_torch(rows: Tensor, u: Tensor) -> Tensor:
    square = torch.linalg.vector_norm(u, dtype=torch.float64).square()
    solution = projection.solve(*reductions.inner_products(rows, u), square)
    return u - reductions.weighted_sum(rows, solution.coefficients)


def project_by_qr(rows: Tensor, u: Tensor) -> Tensor:
    """u_perp as the published implementations compute it."""
    Q = torch.linalg.qr(rows.T).Q
    return u - Q @ (Q.T @ u)


class Bench:
    """Measures calls, prints the results and, on a GPU, appends them to `results.csv`."""

    def __init__(self, device: str, k: int):
        self.device, self.k = device, k
        self.common = {**run_columns(), "tuning": KERNEL, "k": k}

    def measure(
        self, model: str, method: str, call: Callable[[], object], precision: str = "fp32"
    ) -> float:
        """The time of one call in seconds, NaN if it runs out of memory."""
        try:
            seconds, peak = self.time(call)
            self.record(model, method, precision, step_s=seconds, peak_gb=peak)
        except torch.OutOfMemoryError as error:
            seconds = float("nan")
            self.record(model, method, precision, failure=str(error).splitlines()[0][:200])
        return seconds

    def record(
        self, model: str, method: str, precision: str, failure: str = "", **values: float
    ) -> None:
        values = {name: f"{value:.4g}" for name, value in values.items()}
        print(f"{model}, {method}: {failure or values}", flush=True)
        if self.device == "cuda":
            row = {"model": model, "method": method, "precision": precision, "failure": failure}
            append({**self.common, **row, **values})

    def time(self, call: Callable[[], object]) -> tuple[float, float]:
        """The time of one call (s), and its peak memory besides what was in use before (GB)."""
        # Compiles the kernels.
        call()
        before = self._memory()
        start = self._now()
        call()
        calls = max(1, min(100, int(0.1 / (self._now() - start))))
        peak = self._memory() - before
        means = []
        for _ in range(5):
            start = self._now()
            for _ in range(calls):
                call()
            means.append((self._now() - start) / calls)
        return statistics.median(means), peak

    def _now(self) -> float:
        synchronize()
        return time.perf_counter()

    def _memory(self) -> float:
        """Peak of the memory in use since the last call of this method, in GB; 0 without a GPU."""
        if self.device != "cuda":
            return 0.0
        peak = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return peak

    def random(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=dtype)


def measure_matrix(bench: Bench, d: int) -> None:
    """Measures passes and projections over one matrix (k, d), a materialised parameter."""
    model = f"dense {bench.k} x {d / 1e6:g}M"
    rows, u = bench.random(bench.k, d), bench.random(d)
    copy = bench.measure(model, "copy", functools.partial(torch.empty_like(rows).copy_, rows))
    weights = bench.random(bench.k)
    passes = {
        "inner_products": lambda: ops.inner_products(rows, u),
        "inner_products exact": lambda: ops.inner_products(rows, u, exact=True),
        "weighted_sum": lambda: ops.weighted_sum(rows, weights),
    }
    for method, call in passes.items():
        print(f"    {copy / 2 / bench.measure(model, method, call):.0%} of the copy bandwidth")
    projections = {
        "projection": lambda: project(rows, u),
        "projection exact": lambda: project(rows, u, exact=True),
        "projection, plain torch": lambda: project_in_torch(rows, u),
    }
    seconds = {method: bench.measure(model, method, call) for method, call in projections.items()}
    for method, value in seconds.items():
        print(f"    {method}: {copy / value:.0%} of the copy bandwidth")
    qr = bench.measure(model, "torch.linalg.qr", lambda: project_by_qr(rows, u))
    print(f"    qr / projection: {qr / seconds['projection']:.1f}")


def measure_tensors(bench: Bench, model: str, largest: int) -> None:
    """Measures a projection in each parameter tensor of a model.

    Each size is measured once and counted as often as it occurs.

    Args:
        largest: leave out tensors with more values than this.
    """
    with torch.device("meta"):
        sizes = Counter(
            p.numel() for p in SHAPES[model](30)[0].parameters() if p.numel() <= largest
        )
    for method, call in {"projection": project, "torch.linalg.qr": project_by_qr}.items():
        total = 0.0
        for d, count in sizes.items():
            rows, u = bench.random(bench.k, d), bench.random(d)
            seconds, _ = bench.time(functools.partial(call, rows, u))
            total += count * seconds
        name = f"dense {bench.k} x {model}'s {sum(sizes.values())} tensors"
        bench.record(name, method, "fp32", step_s=total)


def measure_solve(bench: Bench) -> None:
    """Measures the solution of batches of k x k systems."""
    for problems, k in (1, 8), (1, 16), (1, 64), (1, 256), (500, 16):
        # (problems, k, 2 k)
        rows = torch.randn(problems, k, 2 * k, dtype=torch.float64, device=bench.device)
        K, b, square = rows @ rows.mT, rows.sum(2), rows.new_full((problems,), 2.0 * k)
        model = f"{problems} systems of {k}"
        bench.measure(model, "solve", functools.partial(ops.solve, K, b, square))
        bench.measure(
            model, "solve, plain torch", functools.partial(projection.solve, K, b, square)
        )


def measure_layers(bench: Bench, shrink: int) -> None:
    """Measures the inner products of a Linear layer's gradients by each way.

    Args:
        shrink: divide the sizes of the layers by this.
    """
    for name, (T, o, i) in LAYERS.items():
        T, o, i = max(1, T // shrink), o // shrink, i // shrink
        # (k, T, o), (k, T, i)
        B, X = (bench.random(bench.k, T, size, dtype=torch.bfloat16) for size in (o, i))
        u, uses = bench.random(o, i), [Product(B, X)]
        calls = {
            "product alone": functools.partial(torch.bmm, B.mT, X),
            "kept": functools.partial(materialise, uses, u, exact=True, keep=Buffer()),
            "materialise": functools.partial(materialise, uses, u, exact=True, keep=None),
            "ghost": functools.partial(ghost, uses, u, exact=True),
        }
        if ops.fused_kernel_available(u.device):
            calls["fused"] = functools.partial(ops.product_inner_products, B, X, u)
        for method, call in calls.items():
            bench.measure(f"{name} {T} x {o} x {i}", method, call, "bf16")


def tune(bench: Bench, d: int) -> None:
    """Prints the times of the kernels with other block sizes.

    For inner_products these are other columns, warps and programs per multiprocessor than in
    `triton_reductions.SHAPES`. For product_inner_products they are other lines, columns and stages
    than in `triton_products.TILES`.
    """
    # Triton is only there on Linux.
    from hf_unlearn.ops import triton_products, triton_reductions

    def measured(kernel: str, setting: object, call: Callable[[], object], moved: int) -> None:
        try:
            seconds = bench.time(call)[0]
        except Exception as error:
            # Most often it asks for too much shared memory.
            print(f"{kernel} {setting}: {type(error).__name__}")
        else:
            print(
                f"{kernel} {setting}: {seconds * 1e3:.3f} ms, {moved / seconds / 1e9:.0f} GB/s",
                flush=True,
            )

    rows, u = bench.random(bench.k, d), bench.random(d)
    padded = min(max(16, 1 << (bench.k - 1).bit_length()), triton_reductions.MOST_ROWS)
    for exact, *shape in itertools.product(
        (False, True), (32, 64, 128, 256), (1, 2, 4, 8), (1, 2, 4, 8, 12, 16)
    ):
        triton_reductions.SHAPES[padded] = shape
        call = functools.partial(triton_reductions.inner_products, rows, u, exact)
        measured(f"inner_products exact={exact}", shape, call, rows.nbytes)
    for (name, (T, o, i)), dtype in itertools.product(
        LAYERS.items(), (torch.bfloat16, torch.float32)
    ):
        B, X = (bench.random(bench.k, T, size, dtype=dtype) for size in (o, i))
        weight = bench.random(o, i)
        for tile in itertools.product((32, 64, 128), (16, 32, 64), (2, 3, 4)):
            triton_products.TILES[dtype.itemsize] = tile
            call = functools.partial(triton_products.product_inner_products, B, X, weight)
            measured(
                f"product_inner_products, {name}, {dtype}",
                tile,
                call,
                B.nbytes + X.nbytes + weight.nbytes,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--k", type=int, default=16, help="number of rows")
    parser.add_argument("--tune", action="store_true", help="try other block sizes")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bench, tiny = Bench(device, arguments.k), device == "cpu"
    d = 20_000 if tiny else 40_000_000
    print(ops.active_kernels())
    if arguments.tune:
        tune(bench, d)
        return
    measure_matrix(bench, d)
    measure_tensors(bench, "whisper-tiny" if tiny else "whisper-small", 1000 if tiny else 2**62)
    measure_solve(bench)
    measure_layers(bench, 16 if tiny else 1)


if __name__ == "__main__":
    main()
