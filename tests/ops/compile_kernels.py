"""Compiles the kernels for a GPU that need not be present and prints the resources of each.

    .venv/bin/python tests/ops/compile_kernels.py 90

The argument is the compute capability: 80 for the A100, 90 for the H100 and H200. test_kernels.py
runs this script, because the interpreter accepts code that the compiler does not.
"""

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from hf_unlearn.ops import triton_products, triton_reductions, triton_solve


class AbsentDevice:
    """The parts of a driver that compiling needs."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_all(capability: int) -> Iterator[tuple[str, triton.compiler.CompiledKernel]]:
    compiled = []
    triton.runtime.driver.set_active(AbsentDevice(capability))
    JITFunction.__getitem__ = lambda self, grid: (
        lambda *a, **k: compiled.append(self.warmup(*a, grid=grid, **k))
    )
    u = torch.empty(1024)
    for k, dtype in (
        (16, torch.float32),
        (64, torch.float32),
        (256, torch.float32),
        (16, torch.bfloat16),
        (16, torch.half),
    ):
        rows, weights = torch.empty(k, 1024, dtype=dtype), torch.empty(k, dtype=torch.float64)
        for exact in (False, True):
            triton_reductions.inner_products(rows, u, exact)
            yield f"inner_products k={k} {dtype} exact={exact}", compiled.pop()
        triton_reductions.weighted_sum(rows, weights, dtype)
        yield f"weighted_sum k={k} {dtype}", compiled.pop()
    for k, dtype in itertools.product((16, 40), (torch.float32, torch.bfloat16, torch.half)):
        B, X = (torch.empty(k, 64, size, dtype=dtype) for size in (768, 384))
        triton_products.product_inner_products(B, X, torch.empty(768, 384))
        yield f"product_inner_products k={k} {dtype}", compiled.pop()
    for k in (16, 256):
        K = torch.empty(2, k, k, dtype=torch.float64)
        b = torch.empty(2, k, dtype=torch.float64)
        triton_solve.solve(K, b, b[:, 0])
        yield f"solve k={k}", compiled.pop()


def main(capability: int) -> None:
    for name, kernel in compile_all(capability):
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
            usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
        multiply = sorted(set(re.findall(r"mma[\w.]*\.sync\.aligned[\w.]+", kernel.asm["ptx"])))
        shared = kernel.metadata.shared
        print(f"{name}: {registers} registers, {stack} bytes of stack, {shared} shared", *multiply)


if __name__ == "__main__":
    main(int(sys.argv[1]))
