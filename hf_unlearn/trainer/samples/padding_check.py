"""Finds out, before the first step or (for a stream) from its first batch, whether padding changes
the losses of a trainer's model or their gradients."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import logging

from ...per_sample.comparison import TOLERANCE
from ...per_sample.reference import count_samples
from ...per_sample.shards import sharded_modules
from ..batches.seeded import seeded
from ..batches.training_data import STREAMS, dataset_of, some_rows, used_splits
from ..processes import all_processes
from ..protocol import TrainerView
from .padding import (
    UnpaddedRangesCollator,
    gradients_differ,
    loss_difference,
    padded_samples,
    remedy_for,
    unknown_samples,
)

logger = logging.get_logger(__name__)

# The key of an attention mask in a batch.
MASK = "attention_mask"
# How many rows of each data set, spread evenly over it, are looked at.
ROWS = 8
# How many samples of all data sets together are computed with and without their padding.
COMPARED = 4
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
Context = Callable[[], contextlib.AbstractContextManager]


@dataclass(frozen=True)
class PaddedSample:
    """A sample with padding: its index in a batch, and the context to compute it in."""

    batch: dict
    index: int
    context: Context = contextlib.nullcontext


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
        # for the samples that the check compares.
        self._unknown = self._unchecked = ""

    def collator(self, collator: Callable[[list], dict]) -> Callable[[list], dict]:
        """A collator whose batches say what is padding, as long as that is needed or not known."""
        return collator if self.matters is False else UnpaddedRangesCollator(collator, self._wanted)

    def of_rows(self, at_retain: Context, loss_of: Loss, precision: torch.dtype) -> None:
        """Looks at some rows of each data set that the method uses, except for streams, of which
        `of_batch` sees the first batch.

        Args:
            at_retain: the context for computing retain samples.
            loss_of: the loss of a batch of one.
            precision: dtype of the forward pass.
        """
        if self._rows_seen:
            return
        trainer, of_splits = self._trainer, []
        splits = used_splits(trainer)
        for split in splits:
            rows, collator = some_rows(trainer, split, ROWS)
            context = contextlib.nullcontext if split == "forget" else at_retain
            # The same rows on all processes, whatever the collator draws.
            with context(), seeded(trainer.args.seed):
                of_splits.append(list(self._padded_samples(rows, collator, context)))
        self._rows_seen = True
        streamed = any(isinstance(dataset_of(trainer, split), STREAMS) for split in splits)
        # In turns, so that each data set has its share.
        turns = itertools.chain.from_iterable(itertools.zip_longest(*of_splits))
        samples = [sample for sample in turns if sample is not None][:COMPARED]
        self._conclude(self._padding_matters(samples, loss_of, precision), last=not streamed)

    def of_batch(self, batch: dict, loss_of: Loss, precision: torch.dtype) -> None:
        """Looks at the first batch of a stream."""
        self._has_mask |= MASK in batch
        indices = padded_samples(batch)[:COMPARED]
        if unknown_samples(batch):
            self._unknown = self._unchecked = VALUES_DIFFER
        if sharded_modules(self._trainer.model):
            # All processes must take part in every pass.
            indices = [*indices, *[0] * COMPARED][:COMPARED]
        samples = [PaddedSample(batch, index) for index in indices]
        self._conclude(self._padding_matters(samples, loss_of, precision), last=True)

    def _padding_matters(
        self, samples: list[PaddedSample], loss_of: Loss, precision: torch.dtype
    ) -> bool:
        """Whether padding changes the loss of one of the samples, or the gradient of the one whose
        loss differs most."""
        if not samples:
            return False
        trainer, differences = self._trainer, []
        for sample in samples:
            with sample.context(), seeded(trainer.args.seed):
                differences.append(loss_difference(sample.batch, loss_of, sample.index))
        largest = max(differences)
        losses_differ = largest > TOLERANCE[precision][2]
        # DeepSpeed's engine computes gradients in its own way.
        if trainer.deepspeed is not None:
            return losses_differ
        sample = samples[differences.index(largest)]
        # Processes that share a sharded model all have to compute the gradients.
        with sample.context(), seeded(trainer.args.seed):
            differ = gradients_differ(sample.batch, trainer.model, loss_of, precision, sample.index)
        return losses_differ or differ

    def _padded_samples(
        self, rows: list, collator: Callable, context: Context
    ) -> Iterator[PaddedSample]:
        """The samples among some rows that get padding, as far as it is known."""
        if len(rows) < 2:
            return
        collator, prepare = UnpaddedRangesCollator(collator), self._trainer._prepare_inputs
        batch = collator(rows)
        if count_samples(batch) != len(rows):
            self._unknown = self._unchecked = COUNT_DIFFERS
            return
        self._has_mask |= MASK in batch
        if padded := padded_samples(batch):
            prepared = prepare(batch)
            yield from (PaddedSample(prepared, index, context) for index in padded)
        for n in unknown_samples(batch)[:COMPARED]:
            self._unknown = VALUES_DIFFER
            # The first row of a batch may draw the random numbers that it draws alone.
            first = collator([rows[n], *rows[:n], *rows[n + 1 :]])
            if 0 in unknown_samples(first):
                self._unchecked = VALUES_DIFFER
            elif 0 in padded_samples(first):
                yield PaddedSample(prepare(first), 0, context)

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
