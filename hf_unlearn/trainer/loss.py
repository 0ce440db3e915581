"""The loss that UnlearnTrainer takes of a batch: the mean over its samples, whoever computes it."""

import contextlib
import inspect
from collections.abc import Iterator

from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..per_sample import SampleMeanLoss
from ..per_sample.inputs import own_copy
from ..per_sample.reference import count_samples
from .checkpointing import SavingTrainer

IGNORED = -100


class LossBySample(SavingTrainer):
    """Takes the mean over samples of the model's loss, of `compute_loss_func`, and of a
    `compute_loss` that a subclass overrides, in training and in evaluation.

    What sums over labels and divides by `num_items_in_batch` gets the number of labels, and then is
    a mean over samples, too (see `SampleMeanLoss`).
    """

    _losses: SampleMeanLoss | None = None  # while a loss is computed
    # whether the loss is told how many there are; None as long as nobody knows
    _counts_labels: bool | None = None

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        if (given := self.compute_loss_func) is not None:
            self.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: given(
                outputs, labels, num_items_in_batch=self._losses.items
            )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As in Trainer, but the mean over samples. (With num_items_in_batch, Trainer would scale
        the loss by the number of processes, and models would average over the tokens of all
        batches.)"""
        if self._losses is None:
            with self.by_sample(inputs, strict=not return_outputs):
                return super().compute_loss(model, inputs, return_outputs)
        return super().compute_loss(model, inputs, return_outputs)

    def mean_loss(self, model: nn.Module, inputs: dict) -> Tensor:
        """The mean over the samples of a batch of the loss that `compute_loss` gives.

        Raises:
            NotBySample: its values do not divide over the samples.
        """
        with self.by_sample(inputs) as losses:
            known = {} if losses.items is None else {"num_items_in_batch": losses.items}
            loss = self.compute_loss(model, own_copy(inputs), **known)
        return loss if self.used_labels(losses) else self.mean_loss(model, inputs)

    @contextlib.contextmanager
    def by_sample(self, inputs: dict, strict: bool = True) -> Iterator[SampleMeanLoss]:
        """Within this context losses of these inputs are means over their samples."""
        before = self._losses
        with SampleMeanLoss(count_samples(inputs), strict, self._labels(inputs)) as self._losses:
            try:
                yield self._losses
            finally:
                self._losses = before

    def used_labels(self, losses: SampleMeanLoss) -> bool:
        """False where a loss has to be computed again, since it made no use of the number of
        labels, which others divide by. From then on it does not get it."""
        self._counts_labels = self._counts_labels and not losses.undivided
        return not losses.undivided

    def _labels(self, inputs: dict) -> Tensor | None:
        """How many labels each sample has (k,), as Trainer counts them; None where the loss is not
        to know."""
        if self._counts_labels is None:
            self._counts_labels = self.compute_loss_func is not None or self._overridden()
        labels = inputs.get("shift_labels", inputs.get("labels"))
        if not self._counts_labels or not isinstance(labels, Tensor) or not labels.ndim:
            return None
        if "shift_labels" not in inputs and self._shifts_labels():
            labels = labels[..., 1:]
        return labels.ne(IGNORED).reshape(count_samples(inputs), -1).sum(1)

    def _shifts_labels(self) -> bool:
        """Whether the first label of each sample is not predicted. (Trainer counts it for GPT-2 and
        some others.)"""
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        causal = type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        return causal or getattr(self, "_loss_shifts_labels", False)

    def _overridden(self) -> bool:
        """Whether compute_loss is a user's, and takes the number of labels."""
        own = getattr(self.compute_loss, "__func__", None) is LossBySample.compute_loss
        return not own and "num_items_in_batch" in inspect.signature(self.compute_loss).parameters

    def _get_num_items_in_batch(self, batch_samples, device):
        return None if self._losses is None else self._losses.items
