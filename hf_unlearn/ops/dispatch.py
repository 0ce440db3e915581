"""Chooses between the Triton kernels and plain torch for each call: kernels for CUDA tensors.

On the first CUDA tensor, the kernels are compared with plain torch on small inputs, once per
process. If Triton is missing, a kernel raises or its result differs, one warning says so and plain
torch is used for the rest of the process. The kernel of `product_inner_products` is optional, so it
is checked and disabled separately.

The environment variable HF_UNLEARN_KERNELS overrides this choice. `torch` never uses a kernel.
`triton` raises where a kernel fails. It also sends CPU tensors to the kernels, which needs
TRITON_INTERPRET=1 to be set before Triton is first imported (for tests).
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from . import projection, reductions
from .projection import FLOAT32_ROUNDING, Solution

logger = logging.get_logger(__name__)

VARIABLE = "HF_UNLEARN_KERNELS"
# Check of kernels that are disabled -> the reason.
failures: dict[Callable, str] = {}


@functools.wraps(reductions.inner_products)
def inner_products(rows: Tensor, u: Tensor, exact: bool = False) -> tuple[Tensor, Tensor]:
    return _dispatch(check_kernels, "inner_products", reductions.inner_products, rows, u, exact)


@functools.wraps(reductions.product_inner_products)
def product_inner_products(B: Tensor, X: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    plain = reductions.product_inner_products
    # The kernel sums in float32.
    if B.dtype == torch.float64:
        return plain(B, X, u)
    return _dispatch(check_product_kernel, "product_inner_products", plain, B, X, u)


@functools.wraps(reductions.weighted_sum)
def weighted_sum(
    rows: Tensor, weights: Tensor, dtype: torch.dtype | None = None, exact: bool = False
) -> Tensor:
    dtype, plain = dtype or rows.dtype, reductions.weighted_sum
    # The kernel sums in float32.
    if exact or rows.dtype == torch.float64:
        return plain(rows, weights, dtype, exact)
    return _dispatch(check_kernels, "weighted_sum", plain, rows, weights, dtype)


@functools.wraps(projection.solve)
def solve(K: Tensor, b: Tensor, square: Tensor, rounding: float = FLOAT32_ROUNDING) -> Solution:
    return _dispatch(check_kernels, "solve", projection.solve, K, b, square, rounding)


def active_kernels() -> str:
    """What the calls above run on, for issue reports, such as "triton 3.9.0 on NVIDIA H100"."""
    choice = _choice()
    if choice == "torch":
        return f"plain torch ({VARIABLE}=torch)"
    if not torch.cuda.is_available():
        return "triton, interpreted" if choice == "triton" else "plain torch (no CUDA)"
    inner_products(torch.zeros(1, 1, device="cuda"), torch.zeros(1, device="cuda"))
    if check_kernels in failures:
        return f"plain torch (triton failed: {failures[check_kernels]})"
    return f"triton {load_kernels().version} on {torch.cuda.get_device_name()}"


def doubles_are_fast(device: torch.device) -> bool:
    """Whether float64 products cost about as much as float32 ones.

    They do on the A100, H100, H200 and B200, which compute them on tensor cores.
    """
    capabilities = ((8, 0), (9, 0), (10, 0))
    return device.type == "cuda" and torch.cuda.get_device_capability(device) in capabilities


def fused_kernel_available(device: torch.device) -> bool:
    """Whether `product_inner_products` runs without storing the rows in memory.

    Its kernel needs float64 on tensor cores, and the large shared memory of the cards that have it.
    """
    interpreted = device.type == "cpu" and _choice() == "triton"
    if _choice() == "torch" or not (interpreted or doubles_are_fast(device)):
        return False
    return _kernel_ok(check_kernels, device) and _kernel_ok(check_product_kernel, device)


def _dispatch(check: Callable, name: str, plain: Callable, first: Tensor, *arguments: Any) -> Any:
    """Calls the kernel `name` if it is wanted and works on the device of `first`, else `plain`.

    Args:
        check: raises if the kernel does not work on a device.
        first: the first argument of the call.
    """
    if uses_kernels(first) and _kernel_ok(check, first.device):
        with _disable_on_failure(check), torch.cuda.device_of(first):
            return getattr(load_kernels(), name)(first, *arguments)
    return plain(first, *arguments)


def _kernel_ok(check: Callable, device: torch.device) -> bool:
    if check not in failures:
        with _disable_on_failure(check):
            check(device)
    return check not in failures


@contextlib.contextmanager
def _disable_on_failure(check: Callable) -> Iterator[None]:
    """If a kernel fails within this context, warns once and disables the kernels of its check."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if _choice() == "triton":
            raise
        # The first lines of a compiler's message only say where it failed.
        failures[check] = f"{type(error).__name__}: {error}".splitlines()[-1]
        which = (
            "The Triton kernels do"
            if check is check_kernels
            else "The Triton kernel for inner products of products does"
        )
        logger.warning(f"{which} not work here; plain torch is used instead: {failures[check]}")


def uses_kernels(tensor: Tensor) -> bool:
    """Whether a call on this tensor should use a kernel."""
    choice = _choice()
    return choice != "torch" and (tensor.is_cuda or choice == "triton")


def _choice() -> str:
    choice = os.environ.get(VARIABLE, "")
    if choice not in ("", "torch", "triton"):
        raise ValueError(f"{VARIABLE} is {choice!r}, but must be 'torch', 'triton' or unset")
    return choice


@functools.cache
def load_kernels() -> SimpleNamespace:
    """The kernels and the version of Triton.

    Raises:
        ImportError: Triton is not installed. It comes with torch for CUDA on Linux.
    """
    import triton

    from . import triton_products, triton_reductions, triton_solve

    return SimpleNamespace(
        inner_products=triton_reductions.inner_products,
        product_inner_products=triton_products.product_inner_products,
        weighted_sum=triton_reductions.weighted_sum,
        solve=triton_solve.solve,
        version=triton.__version__,
    )


@functools.cache
def check_kernels(device: torch.device) -> None:
    """Raises if a kernel differs from plain torch, for one block of rows and for more than one."""
    kernels, generator = load_kernels(), torch.Generator().manual_seed(0)
    for k, d in (3, 1001), (65, 101):
        rows, u = (torch.randn(size, generator=generator).to(device) for size in ((k, d), (d,)))
        rows[-1] = rows[0]
        K, b = reductions.inner_products(rows, u, True)
        square = u.double() @ u.double()
        c = projection.solve(K, b, square).coefficients
        expected = c @ rows.double()
        with torch.cuda.device_of(rows):
            for exact, tolerance in ((False, 1e-5), (True, 1e-13)):
                result = torch.vstack(kernels.inner_products(rows, u, exact))
                _compare("inner products", result, torch.vstack((K, b)), tolerance)
            result = kernels.solve(K, b, square).coefficients @ rows.double()
            _compare("solution", result, expected, 1e-6)
            result = kernels.weighted_sum(rows, c, torch.float32)
            _compare("weighted sum", result, expected, 1e-5)


@functools.cache
def check_product_kernel(device: torch.device) -> None:
    """Raises if the kernel for rows that are products differs from plain torch in any dtype."""
    generator = torch.Generator().manual_seed(0)
    for dtype, k in itertools.product((torch.float32, torch.bfloat16, torch.float16), (3, 17)):
        B, X = (
            torch.randn(k, 21, size, generator=generator).to(device, dtype) for size in (70, 35)
        )
        u = torch.randn(70, 35, generator=generator).to(device)
        expected = reductions.product_inner_products(B.double(), X.double(), u)
        with torch.cuda.device_of(B):
            result = load_kernels().product_inner_products(B, X, u)
        name = f"inner products of products in {dtype}"
        _compare(name, torch.vstack(result), torch.vstack(expected), 1e-5)


def _compare(name: str, result: Tensor, expected: Tensor, tolerance: float) -> None:
    error = float((result - expected).abs().max() / expected.abs().max())
    if not error <= tolerance:
        raise ArithmeticError(f"{name}: a kernel and plain torch differ by {error:.1e}")
