"""Compares the choice of a strategy for inner products with the measured times of all strategies.

    .venv/bin/python tests/benchmarks/bench_ways.py

The strategies are those of `per_sample/inner_products.py`. For each weight (o, i) that k samples
use at T positions, this measures all that orthograd does with it (inner products and weighted sum)
by each strategy, and the plain sum over the samples that gradient descent needs. Rows are appended
to results.csv. The table that is printed marks choices that take over 1.3 times the best time.
"""

import datetime
import itertools
import time

import torch
from bench import _append, _commit, _machine

from hf_unlearn import ops
from hf_unlearn.per_sample import ParameterRows, inner_products
from hf_unlearn.per_sample.rows import Product

# T, o, i: Whisper tiny's and small's encoder at 10 s, decoder, output layer over the vocabulary;
# ViT's blocks and head
WEIGHTS = [
    (500, 384, 384), (500, 1536, 384), (500, 3072, 768), (40, 384, 384), (40, 1536, 384), (40, 3072, 768),
    (40, 51865, 384), (197, 768, 768), (1, 1000, 768), (1, 10000, 768),
]  # fmt: skip
SAMPLES = (4, 8, 32)


def seconds(call, repeats: int = 5, enough: float = 2) -> float:
    """The shortest of a few runs, after one for warming up; of fewer once they took `enough`
    seconds together."""
    times = []
    while len(times) < 2 or (len(times) <= repeats and sum(times) < enough):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    now = datetime.datetime.now(datetime.timezone.utc)
    common = {"run": now.strftime("%Y%m%d-%H%M%S"), "date": now.strftime("%Y-%m-%d"), "commit": _commit(),
              **_machine(), "tuning": "kernel"}  # fmt: skip
    ways = [way for way in inner_products.STRATEGIES if way != "fused" or ops.fuses(device)]
    precisions = (
        {"fp32": torch.float32, "bf16": torch.bfloat16}
        if device.type == "cuda"
        else {"fp32": torch.float32}
    )
    for precision, (T, o, i), k in itertools.product(precisions, WEIGHTS, SAMPLES):
        use = Product(
            *(
                torch.randn(k, T, size, device=device, dtype=precisions[precision])
                for size in (o, i)
            )
        )
        weight, weights = (
            torch.nn.Parameter(torch.zeros(o, i, device=device)),
            torch.randn(k, device=device),
        )
        u = torch.randn(o, i, device=device)

        def step(way: str, use=use, weight=weight, weights=weights, u=u) -> None:
            rows = ParameterRows(weight, [use], way)
            rows.products(u, exact=ops.doubles_are_fast(device))
            rows.weighted(weights)

        times = {way: seconds(lambda: step(way)) for way in ways}  # noqa: B023
        best, chosen = min(times.values()), inner_products.choose([use], u)
        times["plain sum"] = seconds(lambda: use.weighted(weights))  # noqa: B023
        for method, value in times.items():
            _append({**common, "model": f"weight {o} x {i}, "
                                        f"T={T}", "precision": precision, "k": k, "method": method,
                     "step_s": f"{value:.4g}"})  # fmt: skip
        wrong = "<-- wrong" * (times[chosen] > 1.3 * best)
        print(f"{precision} T={T} {o} x {i} k={k}: {times}, chosen {chosen}", wrong, flush=True)


if __name__ == "__main__":
    main()
