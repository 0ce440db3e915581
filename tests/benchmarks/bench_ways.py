"""Holds the choice between the ways to inner products (`per_sample/inner_products.py`) against their measured times.

    .venv/bin/python tests/benchmarks/bench_ways.py

For each weight (o, i) that k samples meet at T positions: the time of all that orthograd does with it (inner products and
weighted sum) by each way, beside the plain sum over the samples that gradient descent needs. Rows go to results.csv; the
table that is printed marks a choice that costs over 1.3 times the better way.
"""

import datetime
import time

import torch
from bench import _append, _commit, _machine

from hf_unlearn.per_sample import ParameterRows, inner_products
from hf_unlearn.per_sample.rows import Product

# T, o, i: Whisper tiny's and small's encoder at 10 s, decoder, output layer over the vocabulary; ViT's blocks and head
WEIGHTS = [
    (500, 384, 384), (500, 1536, 384), (500, 3072, 768), (40, 384, 384), (40, 1536, 384), (40, 3072, 768),
    (40, 51865, 384), (197, 768, 768), (1, 1000, 768), (1, 10000, 768),
]  # fmt: skip
SAMPLES = (4, 8, 32)


def seconds(call, repeats: int = 5, enough: float = 2) -> float:
    """The shortest of a few runs, after one for warming up; of fewer once they took `enough` seconds together."""
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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    now = datetime.datetime.now(datetime.timezone.utc)
    common = {"run": now.strftime("%Y%m%d-%H%M%S"), "date": now.strftime("%Y-%m-%d"), "commit": _commit(),
              **_machine(), "tuning": "kernel", "precision": "fp32"}  # fmt: skip
    for T, o, i in WEIGHTS:
        for k in SAMPLES:
            use = Product(torch.randn(k, T, o, device=device), torch.randn(k, T, i, device=device))
            weight, weights = torch.nn.Parameter(torch.zeros(o, i, device=device)), torch.randn(k, device=device)
            u = torch.randn(o, i, device=device)

            def step(way: str, use=use, weight=weight, weights=weights, u=u) -> None:
                rows = ParameterRows(weight, [use], way)
                rows.products(u)
                rows.weighted(weights)

            times = {way: seconds(lambda: step(way)) for way in inner_products.WAYS}  # noqa: B023
            times["plain sum"] = seconds(lambda: use.weighted(weights))  # noqa: B023
            chosen = inner_products.choose([use], u)
            for method, value in times.items():
                _append({**common, "model": f"weight {o} x {i}, T={T}", "k": k, "method": method,
                         "step_s": f"{value:.4g}"})  # fmt: skip
            best = min(times[way] for way in inner_products.WAYS)
            print(f"T={T} {o} x {i} k={k}: {times}, chosen {chosen}", "<-- wrong" * (times[chosen] > 1.3 * best))


if __name__ == "__main__":
    main()
