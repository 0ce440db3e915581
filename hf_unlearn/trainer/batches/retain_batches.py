"""Which retain samples each optimizer step sees: a pure function of seed, step and process."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from ...config import UnlearnConfig
from ...per_sample.reference import count_samples
from ..losses.silence import Silence
from ..protocol import TrainerView
from .forget_data import CutsWindows
from .joined import join
from .seeded import RETAIN, SeededDataset
from .training_data import data_seed


def check_retain_size(size: int, processes: int, name: str = "retain_dataset") -> None:
    """Raises ValueError if there are fewer samples than processes, each of which needs one.

    Args:
        name: what the message calls the dataset.
    """
    if size < processes:
        raise ValueError(
            f"{name} has {size} samples, but there are {processes} processes, and each "
            "needs at least one: start fewer processes or give more samples"
        )


class RetainSampler(Sampler[list[int]]):
    """Endless batches of indices, one for each step from `first_step` on.

    All processes share one batch of `batch_size * processes` samples per step, and each takes its
    part of it. Every epoch is a new permutation; samples that do not fill a last batch are left
    out of that epoch. A retain set smaller than one batch is used whole in every step.

    Args:
        size: number of samples in the retain set.
        batch_size: samples per step and process.

    Raises:
        ValueError: there are more processes than samples.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        first_step: int = 0,
    ):
        check_retain_size(size, processes)
        self.size, self.total, self.seed = size, min(size, batch_size * processes), seed
        self.process, self.processes, self.first_step = process, processes, first_step

    def batch(self, step: int) -> list[int]:
        """The indices of this process's samples in a step."""
        epoch, number = divmod(step, self.size // self.total)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.size, generator=generator)
        shared = order[number * self.total : (number + 1) * self.total]
        return shared.tensor_split(self.processes)[self.process].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step
        while True:
            yield self.batch(step)
            step += 1


class WithEarlier(Sampler[list[int]]):
    """Batches of retain samples, followed by samples of earlier requests, whose indices go on after
    those of the retain set."""

    def __init__(self, retain: RetainSampler, earlier: RetainSampler):
        self.retain, self.earlier = retain, earlier
        self.seed, self.first_step = retain.seed, retain.first_step

    def batch(self, step: int) -> list[int]:
        """The indices of this process's samples in a step."""
        earlier = (self.retain.size + index for index in self.earlier.batch(step))
        return [*self.retain.batch(step), *earlier]

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.batch, itertools.count(self.first_step))


class RetainBatches:
    """The retain batch of each optimizer step, loaded ahead of its use. With a
    `previous_forget_dataset`, samples of earlier requests follow the retain samples.

    Args:
        wrap_collator: applied to the trainer's collator.
        silence: gives batches the labels of silence; None with another `forget_objective`.

    Attributes:
        batch: the batch drawn last, without the silence of its samples; None before the first.
        sampler: the sampler of the current data loader; None before the first batch.
    """

    sampler: RetainSampler | WithEarlier | None

    def __init__(
        self,
        trainer: TrainerView,
        wrap_collator: Callable[[Callable], Callable],
        silence: Silence | None,
    ):
        self._trainer, self._wrap_collator, self._silence = trainer, wrap_collator, silence
        self.batch: dict | None = None
        self.sampler = None
        self._loaded: Iterator[dict] = iter(())
        # The step of the batch drawn last.
        self._step: int | None = None

    def of_current_step(self, forget_batch: dict, generator: torch.Generator) -> dict:
        """The batch of the current optimizer step. With the objective "silence", that of its
        samples follows, for methods that constrain it.

        Args:
            forget_batch: its texts are mixed with those of the retain samples.
            generator: decides which of them are exchanged.
        """
        batch = self.loaded()
        if not self._constrains_silence():
            return batch
        retained = count_samples(batch) - self.earlier_samples()
        silenced = self._silence.with_texts_of(batch, forget_batch, generator)
        # A forget set that cuts its samples (`forget_windows`) also cuts the retain samples.
        forget_set = self._trainer.train_dataset
        if isinstance(forget_set, CutsWindows):
            silenced = forget_set.windows_of(silenced, generator)
        silenced = self._silence.with_targets_drawn(silenced, generator)
        return self._silence.constrained(batch, silenced, retained)

    def loaded(self) -> dict:
        """The batch of the current optimizer step as it was loaded, the same one at every call."""
        step = self._trainer.state.global_step
        if self.batch is None or self._step != step:
            if self._step is None or self._step + 1 != step:
                self._start_loader(step)
            self._step = step
            self.batch = self._trainer._prepare_inputs(next(self._loaded))
        return self.batch

    def indices(self) -> list[int]:
        """The indices in the retain set of the current optimizer step's batch."""
        return self.sampler.batch(self._trainer.state.global_step)

    def earlier_samples(self) -> int:
        """How many samples of the current optimizer step's batch belong to earlier requests. They
        are its last ones."""
        if self._trainer.previous_forget_dataset is None:
            return 0
        return sum(index >= len(self._trainer.retain_dataset) for index in self.indices())

    def constraint_samples(self) -> int:
        """How many samples of the current optimizer step's batch, its last ones, are not retained
        themselves, but have gradients that the step is orthogonal to."""
        if not self._constrains_silence():
            return self.earlier_samples()
        # The silence of the retain samples joins them.
        return len(self.indices())

    def _constrains_silence(self) -> bool:
        return self._silence is not None and self._trainer.method.keeps_forgotten

    def _start_loader(self, first_step: int) -> None:
        trainer, args = self._trainer, self._trainer.args
        dataset, collator = trainer.collated(trainer.retain_dataset, "retain")
        shared = (data_seed(args), args.process_index, args.world_size, first_step)
        size, batch_size = len(trainer.retain_dataset), args.per_device_retain_batch_size
        self.sampler = RetainSampler(size, batch_size, *shared)
        if (earlier := trainer.previous_forget_dataset) is not None:
            batch_size = args.per_device_previous_batch_size
            sampler = RetainSampler(len(earlier), batch_size, *shared)
            self.sampler = WithEarlier(self.sampler, sampler)
            rows = trainer.collated(earlier, "previous forget")
            dataset, collator = join((dataset, collator), rows)
        loader = retain_dataloader(dataset, self.sampler, self._wrap_collator(collator), args)
        self._loaded = iter(loader)


def retain_dataloader(
    dataset: Any,
    sampler: RetainSampler | WithEarlier,
    collator: Callable[[list], Any],
    args: UnlearnConfig,
) -> DataLoader:
    """Loads the sampler's batches ahead of their use, with the workers that the arguments ask for.
    Random augmentation of a sample depends only on seed, step and index."""
    return DataLoader(
        SeededDataset(dataset, sampler.seed, RETAIN),
        batch_sampler=_with_steps(sampler),
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        # A generator of its own: the global random state must not depend on when a loader is made.
        generator=torch.Generator(),
    )


def _with_steps(sampler: RetainSampler | WithEarlier) -> Iterator[list[tuple[int, int]]]:
    for step, indices in enumerate(sampler, sampler.first_step):
        yield [(step, index) for index in indices]
