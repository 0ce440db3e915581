"""Finds the first part of a model that training does not change, from one forward pass."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

# Parts with a smaller share of a forward pass are not worth the memory.
LEAST_SHARE = 0.1


@dataclass(frozen=True)
class FrozenPart:
    """Modules that can be skipped once the output of the last one is known.

    entry: the module whose inputs decide what they give: it holds all of them.
    blocks: these modules, in the order in which they are called.
    share: their share of the floating-point operations of a forward pass.
    """

    entry: nn.Module
    blocks: tuple[nn.Module, ...]
    share: float

    @property
    def last(self) -> nn.Module:
        return self.blocks[-1]


def frozen_parts(
    model: nn.Module, compute: Callable[[], Tensor], samples: int
) -> Iterator[FrozenPart]:
    """The parts of a model that may be left out, the largest first. The caller has to check whether
    later modules need more of a part than its last output.

    Args:
        compute: computes the loss of a batch in evaluation mode, with gradients.
        samples: k, the number of samples in that batch.
    """
    watch = _ForwardWatch(model, samples)
    try:
        with watch:
            compute()
    except _NothingFrozen:
        return
    names = {module: name for name, module in model.named_modules()}
    for end in range(len(watch.blocks), 0, -1):
        blocks = tuple(watch.blocks[:end])
        share = sum(watch.operations[block] for block in blocks) / max(1, watch.total)
        if share < LEAST_SHARE:
            return
        name = _common_name([names[block] for block in blocks])
        # A list of layers is never called.
        while name and watch.calls[model.get_submodule(name)] != 1:
            name = name.rpartition(".")[0]
        yield FrozenPart(model.get_submodule(name), blocks, share)


def is_output_of_block(output: Any, samples: int) -> bool:
    """Whether a module's output can be kept for each sample by itself: one tensor or several, which
    have a row for each sample and no gradient."""
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    # Named outputs may hold more, or be asked for in another form.
    return (
        isinstance(output, Tensor | tuple | list)
        and len(tensors) > 0
        and not any(x.requires_grad or not x.ndim or len(x) != samples for x in tensors)
    )


class _NothingFrozen(Exception):
    """The model begins with a trainable parameter: the rest of the pass is not needed."""


class _ForwardWatch:
    """Watches a forward pass.

    Attributes:
        blocks: the largest modules that end before the first trainable parameter is used, and whose
            outputs can be kept, in the order in which they are called.
        calls: how often each module was called.
        operations: the floating-point operations of each module that ended before that parameter.
        total: those of the whole pass.
    """

    def __init__(self, model: nn.Module, samples: int):
        self._model, self._samples, self._ended = model, samples, False
        self._counter = FlopCounterMode(display=False)
        self._begun: dict[nn.Module, int] = {}
        self._handles: list[RemovableHandle] = []
        self.blocks: list[nn.Module] = []
        self.calls: Counter[nn.Module] = Counter()
        self.operations: dict[nn.Module, int] = {}
        self.total = 0

    def __enter__(self) -> "_ForwardWatch":
        self._handles = [
            handle
            for module in self._model.modules()
            for handle in (
                module.register_forward_pre_hook(self._before),
                module.register_forward_hook(self._after),
            )
        ]
        self._counter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._counter.__exit__(*error)
        for handle in self._handles:
            handle.remove()
        self.total = self._counter.get_total_flops()
        self.blocks = [block for block in self.blocks if self.calls[block] == 1]

    def _before(self, module: nn.Module, arguments: tuple) -> None:
        self.calls[module] += 1
        self._begun[module] = self._counter.get_total_flops()
        self._ended |= any(p.requires_grad for p in module.parameters(recurse=False))
        if self._ended and not self.blocks:
            raise _NothingFrozen

    def _after(self, module: nn.Module, arguments: tuple, output: Any) -> None:
        # A parameter may be used without a call of the module that holds it.
        self._ended |= any(
            isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(output)
        )
        parameters = list(module.parameters())
        if self._ended or not parameters or any(p.requires_grad for p in parameters):
            return
        if is_output_of_block(output, self._samples):
            inside = set(module.modules())
            self.blocks = [block for block in self.blocks if block not in inside] + [module]
            self.operations[module] = self._counter.get_total_flops() - self._begun[module]


def _common_name(names: list[str]) -> str:
    """The name of the smallest module that holds all modules with these names."""
    if len(names) == 1:
        return names[0]
    common = []
    for parts in zip(*(name.split(".") for name in names)):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)
