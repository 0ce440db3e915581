"""How `UnlearnTrainer` loads the forget set, so that random augmentation is reproducible."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import datasets
from torch import Tensor

from ..protocol import DataView
from .seeded import FORGET, SeededDataset
from .training_data import data_seed, length_or_none


class TrainingLoader:
    """Makes random augmentation of a forget sample depend only on seed, epoch and index."""

    def __init__(self, trainer: DataView):
        self._trainer = trainer
        # The forget set as it was given.
        self._given: Any = None
        # The epoch that the forget samples' random numbers depend on; None for streams.
        self._epoch: Tensor | None = None

    @contextlib.contextmanager
    def seeded_forget_set(
        self, collator_of: Callable[[Callable], Callable[[list], dict]]
    ) -> Iterator[None]:
        """Within this context the trainer's forget set gives samples with seeded random numbers,
        unless it is a stream.

        Args:
            collator_of: gives the collator for training, from the trainer's own.
        """
        trainer = self._trainer
        forget, collator = trainer.train_dataset, trainer.data_collator
        self._given, self._epoch = forget, None
        trainer.data_collator = collator_of(collator)
        try:
            if length_or_none(forget) is not None:
                rows, _ = trainer.collated(forget, "training")
                trainer.train_dataset = SeededDataset(rows, data_seed(trainer.args), FORGET)
                self._epoch = trainer.train_dataset.epoch
            yield
        finally:
            trainer.train_dataset, trainer.data_collator = forget, collator

    def begin_epoch(self, epoch: int) -> None:
        """Sets the epoch that the forget samples' random numbers depend on."""
        if self._epoch is not None:
            self._epoch.fill_(epoch)

    def sampler_dataset(self, dataset: Any) -> Any:
        """What Trainer's sampler should read: the column of lengths if it needs that, because
        Trainer looks for it after it has removed it; else `dataset`."""
        forget, args = self._given, self._trainer.args
        by_length = args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
        if (
            by_length
            and isinstance(forget, datasets.Dataset)
            and args.length_column_name in forget.column_names
        ):
            return forget.select_columns(args.length_column_name).with_format(None)
        return dataset
