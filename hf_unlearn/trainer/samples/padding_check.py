"""Finds out, before the first step or (for a stream) from its batch, whether padding changes the
losses of a trainer's model or their gradients."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.utils import logging

from ...per_sample.reference import count_samples
from ...per_sample.shards import sharded_modules
from ..batches.seeded import seeded
from ..batches.training_data import STREAMS, dataset_of, some_rows, used_splits
from ..protocol import TrainerView
from .padding import (
    COMPARED,
    UnpaddedRangesCollator,
    padded_samples,
    padding_matters,
    remedy_for,
    unknown_samples,
)
from .processes import all_processes

logger = logging.get_logger(__name__)

# The key of an attention mask in a batch.
MASK = "attention_mask"
# How many rows of each data set, spread evenly over it, are looked at.
ROWS = 8
PADDING_MATTERS = (
    "padding changes the loss of a sample in {model}, or its gradient, so that it depends on the "
    "other samples of its batch{mask}. Each sample is computed without its padding{unknown}. To "
    "avoid this slow path, {remedy}put samples of the same length into one batch (a batch without "
    "padding is exact, too). per_device_eval_batch_size was set to 1, so the evaluation takes one "
    "sample at a time, too"
)
IN_SPITE_OF_MASK = ", although it gets an attention_mask"
EXCEPT_UNKNOWN = ", except for samples whose padding could not be located, because {why}"
NOT_CHECKED = (
    "It was not checked for all samples whether padding changes their loss in {model}, because "
    "{why}. In a model without an attention mask the loss may depend on the other samples of a "
    "batch."
)
VALUES_DIFFER = (
    "samples in a batch do not have the values that the collator gives them alone (it draws random "
    "numbers, or looks at the whole batch)"
)
COUNT_DIFFERS = "the collator returns another number of samples than it gets"

Loss = Callable[[dict], Tensor]


class PaddingCheck:
    """Compares losses and gradients of samples with and without their padding.

    Attributes:
        matters: whether padding changes them; None until it is known.
        reason: the warning, if padding matters.
    """

    def __init__(self, trainer: TrainerView):
        self._trainer = trainer
        self.matters: bool | None = None
        self.reason = ""
        # Read by data loaders' worker processes.
        self._wanted = torch.ones((), dtype=torch.bool).share_memory_()
        self._rows_seen = self._has_mask = False
        # On this process: why the padding of some samples is unknown, and why it is also unknown
        # where the check looked for it.
        self._unknown = self._unchecked = ""

    def collator(self, collator: Callable[[list], dict]) -> Callable[[list], dict]:
        """A collator whose batches say what is padding, as long as that is needed or not known."""
        return collator if self.matters is False else UnpaddedRangesCollator(collator, self._wanted)

    def of_rows(
        self,
        at_retain: Callable[[], contextlib.AbstractContextManager],
        loss_of: Loss,
        precision: torch.dtype,
    ) -> None:
        """Looks at some rows of each data set that the method uses, except for streams, of which
        `of_batch` sees the first batch.

        Args:
            at_retain: the context for computing retain samples.
            loss_of, precision: as in `padding_matters`.
        """
        if self._rows_seen:
            return
        trainer, differs = self._trainer, False
        splits = used_splits(trainer)
        for split in splits:
            rows, collator = some_rows(trainer, split, ROWS)
            context = contextlib.nullcontext() if split == "forget" else at_retain()
            # The same rows on all processes, whatever the collator draws.
            with context, seeded(trainer.args.seed):
                differs = self._rows_differ(rows, collator, loss_of, precision) or differs
        self._rows_seen = True
        streamed = any(isinstance(dataset_of(trainer, split), STREAMS) for split in splits)
        self._conclude(differs, last=not streamed)

    def of_batch(self, batch: dict, loss_of: Loss, precision: torch.dtype) -> None:
        """Looks at the first batch of a stream."""
        self._has_mask |= MASK in batch
        indices = padded_samples(batch)[:COMPARED]
        if unknown_samples(batch):
            self._unknown = self._unchecked = VALUES_DIFFER
        if sharded_modules(self._trainer.model):
            # All processes must take part in every pass.
            indices = [*indices, *[0] * COMPARED][:COMPARED]
        self._conclude(self._matters(batch, loss_of, precision, indices), last=True)

    def _matters(
        self, batch: dict, loss_of: Loss, precision: torch.dtype, indices: list[int]
    ) -> bool:
        trainer = self._trainer
        # DeepSpeed's engine computes gradients in its own way.
        with_gradients = trainer.deepspeed is None
        return padding_matters(
            batch, trainer.model, loss_of, precision, indices, with_gradients=with_gradients
        )

    def _rows_differ(
        self, rows: list, collator: Callable, loss_of: Loss, precision: torch.dtype
    ) -> bool:
        if len(rows) < 2:
            return False
        collator = UnpaddedRangesCollator(collator)
        batch = collator(rows)
        if count_samples(batch) != len(rows):
            self._unknown = self._unchecked = COUNT_DIFFERS
            return False
        self._has_mask |= MASK in batch
        batches = [(batch, padded_samples(batch)[:COMPARED])]
        for n in unknown_samples(batch)[:COMPARED]:
            self._unknown = VALUES_DIFFER
            # The first row of a batch may draw the random numbers that it draws alone.
            first = collator([rows[n], *rows[:n], *rows[n + 1 :]])
            if 0 in unknown_samples(first):
                self._unchecked = VALUES_DIFFER
            elif 0 in padded_samples(first):
                batches.append((first, [0]))
        prepare = self._trainer._prepare_inputs
        return any(
            [self._matters(prepare(one), loss_of, precision, indices) for one, indices in batches]
        )

    def _conclude(self, matters: bool, last: bool) -> None:
        """Decides for all processes.

        Args:
            last: whether nothing else will be looked at.
        """
        trainer, matters = self._trainer, any(all_processes(matters))
        if not matters and not last:
            return
        self.matters = matters
        self._wanted.fill_(matters)
        unknown, unchecked = map(max, zip(*all_processes((self._unknown, self._unchecked))))
        model = type(trainer.model).__name__
        if matters:
            remedy = remedy_for(trainer.model, self._has_mask)
            self.reason = PADDING_MATTERS.format(
                model=model,
                mask=IN_SPITE_OF_MASK if self._has_mask else "",
                unknown=unknown and EXCEPT_UNKNOWN.format(why=unknown),
                remedy=remedy and f"{remedy}, or ",
            )
            trainer.args.per_device_eval_batch_size = 1
        elif unchecked:
            logger.warning(NOT_CHECKED.format(model=model, why=unchecked))
