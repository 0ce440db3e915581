"""Collects values computed from each sample's logits while an evaluation generates texts."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

# From the logits and labels of a batch to values of each of its samples (k, ...), by name; None if
# the logits do not belong to the labels.
Reduce = Callable[[Tensor, Tensor], dict[str, Tensor] | None]


class LogitCollector:
    """Collects what `reduce` gives for each batch that a model computes with labels."""

    def __init__(self, reduce: Reduce | None = None):
        self._reduce = reduce
        self._seen: list[dict[str, Tensor] | None] = []
        self._batches: list[dict[str, Tensor]] = []

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Within this context the model computes one batch."""
        self._seen = []
        if (reduce := self._reduce) is None:
            yield
            return

        def note(module: nn.Module, arguments: tuple, inputs: dict, outputs: Any) -> None:
            # `generate` calls the model without labels.
            labels = inputs.get("labels")
            logits = outputs.get("logits") if isinstance(outputs, dict) else None
            if isinstance(labels, Tensor) and isinstance(logits, Tensor):
                self._seen.append(reduce(logits, labels))

        handle = model.register_forward_hook(note, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def keep(self, accelerator: Accelerator) -> None:
        """Keeps what was seen of the last batch, of all processes."""
        # If the loss took several passes, it is unknown which of them belongs to the samples.
        if len(self._seen) == 1 and self._seen[0] is not None:
            gathered = accelerator.gather_for_metrics(self._seen[0])
            self._batches.append({name: values.cpu() for name, values in gathered.items()})
        else:
            self._reduce, self._batches = None, []

    def values(self, order: np.ndarray | None) -> dict[str, np.ndarray] | None:
        """The values of all samples (n, ...), in the dataset's order; None if some are unknown.

        Args:
            order: in which the samples were evaluated; None for the dataset's.
        """
        if not self._batches:
            return None
        whole = {name: torch.cat([one[name] for one in self._batches]) for name in self._batches[0]}
        back = slice(None) if order is None else np.argsort(order)
        return {name: values.numpy()[back] for name, values in whole.items()}
