"""Compares the engine's choice among the ways to compute inner products with their measured times.

    .venv/bin/python tests/benchmarks/bench_ways.py
    .venv/bin/python tests/benchmarks/bench_ways.py --dry    # tries all weights, tiny; no rows

For each weight (o, i) that k samples use at T positions, it measures all that orthograd does with
the weight (inner products and weighted sum) by each way, and the plain sum over samples that
gradient descent needs. Rows go to results.csv. The printed lines mark a choice that takes over 1.3
times as long as the best way.
"""

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from records import KERNEL, append, run_columns, synchronize

from hf_unlearn import ops
from hf_unlearn.per_sample import ParameterRows, inner_products
from hf_unlearn.per_sample.rows import Patches, Product, Rows
from hf_unlearn.per_sample.rules import RULES

# (T, o, i)
WEIGHTS = [
    # The encoders of Whisper tiny and small at 10 s.
    (500, 384, 384),
    (500, 1536, 384),
    (500, 3072, 768),
    # Their decoders, and an output layer over the vocabulary.
    (40, 384, 384),
    (40, 1536, 384),
    (40, 3072, 768),
    (40, 51865, 384),
    # The blocks and the head of a ViT.
    (197, 768, 768),
    (1, 1000, 768),
    (1, 10000, 768),
]
# (o, i, kernel, stride, places along each side of the input), of ResNet-50.
CONVOLUTIONS = [
    (256, 64, 1, 1, 56),
    (512, 128, 1, 1, 28),
    (1024, 256, 1, 1, 14),
    (2048, 512, 1, 1, 7),
    (64, 64, 3, 1, 56),
    (128, 128, 3, 1, 28),
    (256, 256, 3, 1, 14),
    (512, 512, 3, 1, 7),
    (512, 512, 3, 2, 14),
    (1024, 512, 1, 2, 28),
]
# k
SAMPLES = (4, 8, 32)
# A choice that takes longer than the best way by this factor is wrong.
TOLERANCE = 1.3


def seconds(call: Callable[[], object], repeats: int = 5, enough: float = 2) -> float:
    """The time of the fastest of some calls, after one for warming up.

    Args:
        repeats: maximum number of calls.
        enough: stop after this many seconds, the warm-up included.
    """
    times = []
    while len(times) < 2 or (len(times) <= repeats and sum(times) < enough):
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


@dataclass
class Bench:
    """Measures weights on a device.

    Attributes:
        common: the columns of all rows.
        dry: append no rows.
    """

    common: dict[str, str]
    device: torch.device
    dry: bool

    def weight(self, T: int, o: int, i: int, k: int, dtype: torch.dtype) -> None:
        ways = [
            way
            for way in inner_products.STRATEGIES
            if way != "fused" or ops.fused_kernel_available(self.device)
        ]
        # (k, T, o), (k, T, i)
        use = Product(*(self.random(k, T, size, dtype=dtype) for size in (o, i)))
        parameter = torch.nn.Parameter(torch.zeros(o, i, device=self.device))
        u, weights = self.random(o, i), self.random(k)
        step = functools.partial(orthograd_step, parameter, use, u, weights)
        times = {way: seconds(functools.partial(step, way)) for way in ways}
        plain = seconds(functools.partial(use.weighted, weights))
        precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        choice = inner_products.choose([use], u)
        self.record(f"weight {o} x {i}, T={T}", precision, k, times, plain, choice)

    def convolution(self, o: int, i: int, kernel: int, stride: int, places: int) -> None:
        """Has one more way, `library`: one call of the convolution library for each sample,
        instead of products of patches."""
        k, padding = 8, kernel // 2
        x = self.random(k, i, places, places)
        parameter = torch.nn.Parameter(torch.zeros(o, i, kernel, kernel, device=self.device))
        B = torch.randn_like(F.conv2d(x, parameter, None, stride, padding))
        u, weights = torch.randn_like(parameter), self.random(k)

        def rows() -> Rows:
            return RULES["conv2d"](k, B, x, parameter, None, stride, padding)["weight"]()

        def step(way: str) -> None:
            use = rows()
            if way == "library":
                use, way = use.convolution, "materialise"
            orthograd_step(parameter, use, u, weights, way)

        patches = isinstance(rows(), Patches)
        ways = ("materialise", "ghost", "library") if patches else ("materialise",)
        times = {way: seconds(functools.partial(step, way)) for way in ways}
        plain = seconds(lambda: rows().weighted(weights))
        name = f"convolution {o} x {i} x {kernel} x {kernel} / {stride}, {places} x {places}"
        choice = inner_products.choose([rows()], u.flatten(1))
        self.record(name, "fp32", k, times, plain, choice)

    def record(
        self, model: str, precision: str, k: int, times: dict[str, float], plain: float, choice: str
    ) -> None:
        """Prints and appends the times of a weight.

        Args:
            times: of each way, in seconds.
            plain: the time of the plain sum.
            choice: the way that the engine chooses.
        """
        mark = "<-- wrong" if times[choice] > TOLERANCE * min(times.values()) else ""
        times = {**times, "plain sum": plain}
        print(f"{model} {precision} k={k}: {times}, choice {choice}", mark, flush=True)
        row = {**self.common, "model": model, "precision": precision, "k": k}
        for method, value in times.items():
            if not self.dry:
                append({**row, "method": method, "step_s": f"{value:.4g}"})

    def random(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, dtype=dtype)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry", action="store_true", help="tiny weights; append no rows")
    dry = parser.parse_args().dry
    shrink = 16 if dry else 1
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench = Bench({**run_columns(), "tuning": KERNEL}, device, dry)
    dtypes = [torch.float32] + [torch.bfloat16] * (device.type == "cuda")
    for dtype, weight, k in itertools.product(dtypes, WEIGHTS, SAMPLES):
        bench.weight(*(max(1, size // shrink) for size in weight), k, dtype)
    for o, i, kernel, stride, places in CONVOLUTIONS:
        bench.convolution(o // shrink, i // shrink, kernel, stride, places)


def orthograd_step(
    parameter: torch.nn.Parameter, use: Rows, u: torch.Tensor, weights: torch.Tensor, way: str
) -> None:
    """All that orthograd computes with a parameter: inner products, and a weighted sum.

    Args:
        parameter: (o, i).
        use: inputs and output gradients of k samples.
        u: forget gradient (o, i).
        weights: of the sum, (k,).
        way: the way to compute the inner products.
    """
    rows = ParameterRows(parameter, [use], way)
    rows.products(u, exact=ops.doubles_are_fast(u.device))
    rows.weighted(weights)


if __name__ == "__main__":
    main()
