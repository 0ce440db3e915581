"""Chooses for each call between the Triton kernels and plain torch: CUDA tensors go to the kernels
where those work.

On the first CUDA tensor the kernels are held against plain torch on small inputs, once per process.
Where Triton is missing, a kernel raises or its result differs, one warning says so, and plain torch
does the rest of the process. The kernel of `product_inner_products`, which is not needed where
others do, is checked and left on its own.

The environment variable HF_UNLEARN_KERNELS overrides: `torch` never uses a kernel; `triton` raises
where a kernel fails, and takes CPU tensors to the kernels too, which needs TRITON_INTERPRET=1
before Triton is first imported (tests).
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers.utils import logging

from . import projection, reductions
from .projection import FLOAT32_ROUNDING, Solution

logger = logging.get_logger(__name__)

VARIABLE = "HF_UNLEARN_KERNELS"
_failures: dict[Callable, str] = {}  # check of the kernels that are out of use -> why


@functools.wraps(reductions.inner_products)
def inner_products(
    rows: Tensor, u: Tensor | None = None, exact: bool = False
) -> tuple[Tensor, Tensor]:
    return _dispatch(_check, "inner_products", reductions.inner_products, rows, u, exact)


@functools.wraps(reductions.product_inner_products)
def product_inner_products(B: Tensor, X: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    if B.dtype == torch.float64:  # the kernel adds up in float32
        return reductions.product_inner_products(B, X, u)
    return _dispatch(
        _check_products, "product_inner_products", reductions.product_inner_products, B, X, u
    )


@functools.wraps(reductions.weighted_sum)
def weighted_sum(
    rows: Tensor,
    weights: Tensor,
    u: Tensor | None = None,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
    exact: bool = False,
) -> Tensor:
    dtype = dtype or rows.dtype
    if exact or rows.dtype == torch.float64:  # the kernel adds up in float32
        return reductions.weighted_sum(rows, weights, u, scale, dtype, exact)
    return _dispatch(
        _check, "weighted_sum", reductions.weighted_sum, rows, weights, u, scale, dtype
    )


@functools.wraps(projection.solve)
def solve(
    gram: Tensor, dots: Tensor, square: Tensor, rounding: float = FLOAT32_ROUNDING
) -> Solution:
    return _dispatch(_check, "solve", projection.solve, gram, dots, square, rounding)


def active_kernels() -> str:
    """What the calls above run on, for issue reports, such as "triton 3.9.0 on NVIDIA H100"."""
    choice = _choice()
    if choice == "torch":
        return f"plain torch ({VARIABLE}=torch)"
    if not torch.cuda.is_available():
        return "triton, interpreted" if choice == "triton" else "plain torch (no CUDA)"
    inner_products(torch.zeros(1, 1, device="cuda"))
    if _check in _failures:
        return f"plain torch (triton failed: {_failures[_check]})"
    return f"triton {_kernels().version} on {torch.cuda.get_device_name()}"


def doubles_are_fast(device: torch.device) -> bool:
    """Whether float64 products cost about as much there as those of float32: on the A100, H100,
    H200 and B200, whose tensor cores take them."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) in (
        (8, 0),
        (9, 0),
        (10, 0),
    )


def fuses(device: torch.device) -> bool:
    """Whether `product_inner_products` makes no rows in memory there. Its kernel is for float64 on
    tensor cores, and for as much shared memory as cards that have those do."""
    interpreted = device.type == "cpu" and _choice() == "triton"
    if _choice() == "torch" or not (interpreted or doubles_are_fast(device)):
        return False
    return _works(_check, device) and _works(_check_products, device)


def _dispatch(check: Callable, name: str, plain: Callable, like: Tensor, *arguments):
    """Calls the kernel `name`, or `plain`; `like`, the first argument, says where, and `check`
    whether it works there."""
    if _takes(like) and _works(check, like.device):
        with _falling_back(check), torch.cuda.device_of(like):
            return getattr(_kernels(), name)(like, *arguments)
    return plain(like, *arguments)


def _works(check: Callable, device: torch.device) -> bool:
    if check not in _failures:
        with _falling_back(check):
            check(device)
    return check not in _failures


@contextlib.contextmanager
def _falling_back(check: Callable) -> Iterator[None]:
    """Where a kernel fails in this context, one warning says so, and those of its check are out of
    use."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if _choice() == "triton":
            raise
        # a compiler's first line says where
        _failures[check] = f"{type(error).__name__}: {error}".splitlines()[-1]
        which = (
            "The Triton kernels do"
            if check is _check
            else "The Triton kernel for inner products of products does"
        )
        logger.warning(f"{which} not work here, plain torch takes their place: {_failures[check]}")


def _takes(tensor: Tensor) -> bool:
    choice = _choice()
    return choice != "torch" and (tensor.is_cuda or choice == "triton")


def _choice() -> str:
    choice = os.environ.get(VARIABLE, "")
    if choice not in ("", "torch", "triton"):
        raise ValueError(
            f"{VARIABLE} is {choice!r}, but must be 'torch' or 'triton', or not be set"
        )
    return choice


@functools.cache
def _kernels() -> SimpleNamespace:
    import triton  # comes with torch for CUDA on Linux; not needed elsewhere

    from . import triton_products, triton_reductions, triton_solve

    return SimpleNamespace(
        inner_products=triton_reductions.inner_products,
        product_inner_products=triton_products.product_inner_products,
        weighted_sum=triton_reductions.weighted_sum,
        solve=triton_solve.solve,
        version=triton.__version__,
    )


@functools.cache
def _check(device: torch.device) -> None:
    """Raises where a kernel differs from plain torch on that device, for few rows and for more than
    a block holds."""
    kernels, generator = _kernels(), torch.Generator().manual_seed(0)
    for k, d in (3, 1001), (65, 101):
        rows, u = (torch.randn(size, generator=generator).to(device) for size in ((k, d), (d,)))
        rows[-1] = rows[0]
        gram, dots = reductions.inner_products(rows, u, True)
        square = u.double() @ u.double()
        coefficients = projection.solve(gram, dots, square).coefficients
        share = coefficients @ rows.double()
        with torch.cuda.device_of(rows):
            for exact, tolerance in ((False, 1e-5), (True, 1e-13)):
                found = kernels.inner_products(rows, u, exact)
                _compare(
                    "inner products", torch.vstack(found), torch.vstack((gram, dots)), tolerance
                )
            _compare(
                "solution",
                kernels.solve(gram, dots, square).coefficients @ rows.double(),
                share,
                1e-6,
            )
            found = kernels.weighted_sum(rows, coefficients, u, -0.5, torch.float32)
            _compare("weighted sum", found, share - 0.5 * u, 1e-5)


@functools.cache
def _check_products(device: torch.device) -> None:
    """Raises where the kernel for rows that are products differs from plain torch, in each type
    that it takes."""
    generator = torch.Generator().manual_seed(0)
    for dtype, k in itertools.product((torch.float32, torch.bfloat16, torch.float16), (3, 17)):
        B, X = (
            torch.randn(k, 21, size, generator=generator).to(device, dtype) for size in (70, 35)
        )
        u = torch.randn(70, 35, generator=generator).to(device)
        expected = reductions.product_inner_products(B.double(), X.double(), u)
        with torch.cuda.device_of(B):
            found = _kernels().product_inner_products(B, X, u)
        _compare(
            f"inner products of products in {dtype}",
            torch.vstack(found),
            torch.vstack(expected),
            1e-5,
        )


def _compare(name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error <= tolerance:
        raise ArithmeticError(f"{name}: a kernel and plain torch differ by {error:.1e}")
