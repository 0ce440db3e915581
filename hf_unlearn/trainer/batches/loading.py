"""How `UnlearnTrainer` loads data: columns, collators, reproducible random augmentation."""

from collections.abc import Callable
from typing import Any

import datasets
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import Seq2SeqTrainer

from ..setup.precision import cast_inputs, input_precision
from .columns import made_on_access, only_columns
from .seeded import FORGET, SeededDataset
from .training_data import data_seed, length_or_none


class LoadingTrainer(Seq2SeqTrainer):
    """A trainer whose random augmentation is reproducible. Subclasses override its hook and call
    `_begin_epoch`."""

    def __init__(self, *arguments: Any, **keywords: Any):
        # The forget set as it was given, which `_get_train_sampler` reads.
        self._given_forget_set: Any = None
        # The epoch that the forget samples' random numbers depend on; None for streams.
        self._forget_epoch: Tensor | None = None
        super().__init__(*arguments, **keywords)

    def training_collator(self, collator: Callable[[list], dict]) -> Callable[[list], dict]:
        """Hook: the collator for batches to train on."""
        return collator

    def get_train_dataloader(self) -> DataLoader:
        """As in Trainer, but random augmentation of a sample depends on seed, epoch and index
        alone."""
        forget, collator = self.train_dataset, self.data_collator
        self._given_forget_set, self._forget_epoch = forget, None
        self.data_collator = self.training_collator(collator)
        try:
            if length_or_none(forget) is None:
                return super().get_train_dataloader()
            rows, _ = self.collated(forget, "training")
            self.train_dataset = SeededDataset(rows, data_seed(self.args), FORGET)
            self._forget_epoch = self.train_dataset.epoch
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = forget, collator

    def collated(self, dataset: Any, description: str) -> tuple[Any, Callable[[list], dict]]:
        """A dataset and its collator, without the columns that the model does not take.

        Args:
            description: what Trainer's message on the columns calls the dataset.
        """
        if isinstance(dataset, datasets.Dataset):
            return self._remove_unused_columns(dataset, description=description), self.data_collator
        return dataset, self._get_collator_with_removed_columns(
            self.data_collator, description=description
        )

    def _remove_unused_columns(self, dataset, description: str | None = None):
        """As in Trainer, but the input of a transform that makes rows on access is kept."""
        if not (self.args.remove_unused_columns and made_on_access(dataset)):
            return super()._remove_unused_columns(dataset, description)
        self._set_signature_columns_if_needed()
        return only_columns(dataset, self._signature_columns)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """As in Trainer, which looks for the length column after it has removed it."""
        forget, args = self._given_forget_set, self.args
        by_length = args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
        if (
            by_length
            and isinstance(forget, datasets.Dataset)
            and args.length_column_name in forget.column_names
        ):
            train_dataset = forget.select_columns(args.length_column_name).with_format(None)
        return super()._get_train_sampler(train_dataset)

    def _prepare_inputs(self, inputs: dict) -> dict:
        return cast_inputs(
            super()._prepare_inputs(inputs), input_precision(self.model), self.label_names
        )

    def _begin_epoch(self, epoch: int) -> None:
        """Sets the epoch that the forget samples' random numbers depend on."""
        if self._forget_epoch is not None:
            self._forget_epoch.fill_(epoch)
