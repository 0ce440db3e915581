"""The forget micro-batches of an optimizer step, without the samples that a data loader repeats."""

import torch

from ...per_sample.reference import count_samples, select_samples
from ..protocol import ModelView


class ForgetBatches:
    """The forget micro-batches of the current optimizer step, and each one's share of its samples.

    Attributes:
        batches: this process's micro-batches.
    """

    def __init__(self, trainer: ModelView):
        self._trainer = trainer
        self.batches: list[dict] = []
        self._shares: list[tuple[float, int]] = []

    def begin_step(self, batches: list[dict]) -> list[dict]:
        """Notes the micro-batches that Trainer has loaded for a step and returns them, without the
        samples that accelerate repeats to give every process a full last batch."""
        trainer, args = self._trainer, self._trainer.args
        counts = [count_samples(batch) for batch in batches]
        if batches and args.world_size > 1:
            counts[-1] = self._new_samples(counts[-1])
            # Keeps one sample of a batch that only repeats; its weight is zero.
            kept = slice(max(counts[-1], 1))
            batches[-1] = select_samples(batches[-1], kept, count_samples(batches[-1]))
        total = int(trainer.accelerator.reduce(torch.tensor(sum(counts), device=args.device)))
        size, process = args.per_device_train_batch_size, args.process_index
        self.batches = batches
        self._shares = [
            (count / total, (n * args.world_size + process) * size)
            for n, count in enumerate(counts)
        ]
        return batches

    def next_share(self) -> tuple[float, int]:
        """The next micro-batch's share of the step's forget samples, and the index of its first
        sample."""
        return self._shares.pop(0)

    def _new_samples(self, size: int) -> int:
        """How many of the `size` samples of this process's batch are not repetitions, which only
        the last batch of an epoch has. (It has the same size on all processes.)"""
        trainer = self._trainer
        state = trainer.accelerator.gradient_state
        if not state.end_of_dataloader or state.remainder <= 0:
            return size
        return min(size, max(0, state.remainder - trainer.args.process_index * size))
