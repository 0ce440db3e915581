"""The errors of the checks: each says what is refused, why, and what to do instead."""

from collections.abc import Callable

DDP = (
    "Use DDP (accelerate launch --multi_gpu), with LoRA (peft_config) or gradient checkpointing if "
    "memory is short."
)
USE_FSDP2 = (
    "Use FSDP2 (fsdp_version: 2 in the configuration of accelerate) for a model too large for one "
    "GPU, else DDP (accelerate launch --multi_gpu)."
)

# Called with what is refused, why, and what to do instead. Raises ValueError.
Refuse = Callable[[str, str, str], None]


def refuse_with_method(method: str, what: str, why: str, instead: str) -> None:
    """Raises ValueError for what does not work with a method."""
    raise ValueError(f"{what} does not work with method={method!r}: {why}. {instead}")


def refuse_always(what: str, why: str, instead: str) -> None:
    """Raises ValueError for what no method works with."""
    raise ValueError(f"{what} is not supported: {why}. {instead}")
