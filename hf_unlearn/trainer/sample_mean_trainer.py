"""A Seq2SeqTrainer whose losses are means over samples, in training and in evaluation, whether the
model, a function or a subclass computes them."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import EvalPrediction, Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_utils import EvalLoopOutput

from ..models import IGNORE_INDEX, base_model
from ..per_sample import SampleMeanLoss
from ..per_sample.inputs import inputs_kept, own_copy
from ..per_sample.reference import count_samples
from ..per_sample.shards import sharded_modules
from .batches.columns import made_on_access, only_columns
from .evaluating.evaluation_order import order_of
from .evaluating.sample_evaluation import SampleEvaluation
from .evaluating.sample_logits import Reduce
from .losses.time_masks import time_masks_that_fit
from .setup.precision import cast_inputs, input_precision
from .setup.prepared_models import shard_untrained_model


class SampleMeanTrainer(Seq2SeqTrainer):
    """A Seq2SeqTrainer whose losses are means over samples: the model's loss, `compute_loss_func`,
    and a `compute_loss` that a subclass overrides.

    The model gets the columns that it takes, in the precision of its weights.

    A loss that sums over labels and divides by `num_items_in_batch` gets each sample's own number
    of labels instead, so that it is a mean over samples, too (see `SampleMeanLoss`).
    """

    args: Seq2SeqTrainingArguments

    def __init__(self, *arguments: Any, **keywords: Any):
        # Collects per-sample losses during compute_loss; None outside.
        self._losses: SampleMeanLoss | None = None
        # Whether the loss divides by the number of labels; None until the first loss.
        self._counts_labels: bool | None = None
        # The loss functions called for the last `mean_loss`, and its value.
        self._last: tuple[SampleMeanLoss, Tensor] | None = None
        self._evaluation = SampleEvaluation(self)
        super().__init__(*arguments, **keywords)
        if (loss_func := self.compute_loss_func) is not None:
            self.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: loss_func(
                outputs, labels, num_items_in_batch=self._losses.items
            )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """As in Trainer, but the mean over samples.

        `num_items_in_batch` is not handed on: Trainer would scale the loss by the number of
        processes, and models would average over the tokens of all batches.
        """
        if self._losses is None:
            with self._by_sample(inputs, strict=not return_outputs):
                return super().compute_loss(model, inputs, return_outputs)
        return super().compute_loss(model, inputs, return_outputs)

    def mean_loss(self, model: nn.Module, inputs: dict) -> Tensor:
        """The mean over the samples of a batch of the loss that `compute_loss` returns.

        Raises:
            NotBySample: its values do not divide over the samples.
        """
        with self._by_sample(inputs) as losses:
            counts = {} if losses.items is None else {"num_items_in_batch": losses.items}
            # Without `return_outputs` it returns the loss alone.
            loss = cast(Tensor, self.compute_loss(model, own_copy(inputs), **counts))
        if not self._check_label_counts_used(losses):
            return self.mean_loss(model, inputs)
        self._last = losses, loss.detach()
        return loss

    @property
    def last_sample_losses(self) -> Tensor | None:
        """The losses (k,) of the samples of the batch whose `mean_loss` was computed last, without
        a gradient; None if the model combines several losses, which do not show them, and before
        the first batch."""
        if self._last is None:
            return None
        losses, loss = self._last
        return losses.known_per_sample(loss)

    # ---- data ------------------------------------------------------------------------------------

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

    def _remove_unused_columns(
        self, dataset: datasets.Dataset, description: str | None = None
    ) -> datasets.Dataset:
        """As in Trainer, but the input of a transform that makes rows on access is kept."""
        if not (self.args.remove_unused_columns and made_on_access(dataset)):
            return super()._remove_unused_columns(dataset, description)
        self._set_signature_columns_if_needed()
        return only_columns(dataset, self._signature_columns)

    def _prepare_inputs(self, inputs: dict) -> dict:
        return cast_inputs(
            super()._prepare_inputs(inputs), input_precision(self.model), self.label_names
        )

    # ---- evaluation ------------------------------------------------------------------------------

    # The loss is a tensor, not a float as Seq2SeqTrainer says.
    def prediction_step(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if sharded_modules(self.model):
            # All processes must take part in every token that is generated.
            gen_kwargs = {"synced_gpus": True, **gen_kwargs}
        # `inputs_kept`: Trainer reads labels and inputs again after the texts are generated.
        with (
            self._by_sample(inputs, strict=False) as losses,
            inputs_kept(model),
            self._evaluation.watching(model),
        ):
            outputs: tuple[Tensor | None, Tensor | None, Tensor | None] = super().prediction_step(
                model, own_copy(inputs), prediction_loss_only, ignore_keys, **gen_kwargs
            )
        if not self._check_label_counts_used(losses):
            return self.prediction_step(
                model, inputs, prediction_loss_only, ignore_keys, **gen_kwargs
            )
        if (loss := outputs[0]) is not None:
            self._evaluation.keep(losses.per_sample(loss))
        return outputs

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As in Trainer, but every sample counts once (see `SampleEvaluation.run`)."""
        shard_untrained_model(self)
        evaluate = functools.partial(
            super().evaluation_loop,
            dataloader,
            description,
            prediction_loss_only,
            ignore_keys,
            metric_key_prefix,
        )
        return self._evaluation.run(evaluate, order_of(dataloader), metric_key_prefix)

    def collecting_logits(
        self, reduce: Reduce
    ) -> contextlib.AbstractContextManager[dict[str, dict[str, np.ndarray]]]:
        """Within this context, evaluations collect what `reduce(logits, labels)` gives for each
        sample, even where their metrics are computed from generated texts.

        Yields:
            {metric_key_prefix: {name: values (n, ...)}}, in the dataset's order, without the
            evaluations whose logits do not belong to the labels.
        """
        return self._evaluation.collecting_logits(reduce)

    def collecting_predictions(
        self,
    ) -> contextlib.AbstractContextManager[dict[str, EvalPrediction]]:
        """Within this context, evaluations keep their predictions and labels.

        Yields:
            {metric_key_prefix: predictions and labels}, in the dataset's order; of a prefix that
            comes twice, those of its last evaluation.
        """
        return self._evaluation.collecting_predictions()

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        sampler = self._evaluation.sampler(eval_dataset)
        return super()._get_eval_sampler(eval_dataset) if sampler is None else sampler

    # ---- how a loss becomes a mean over samples --------------------------------------------------

    @contextlib.contextmanager
    def _by_sample(self, inputs: dict, strict: bool = True) -> Iterator[SampleMeanLoss]:
        """Within this context losses of these inputs are means over their samples."""
        before = self._losses
        counts = self._label_counts(inputs)
        with (
            time_masks_that_fit(self.model),
            SampleMeanLoss(count_samples(inputs), strict, counts) as self._losses,
        ):
            try:
                yield self._losses
            finally:
                self._losses = before

    def _check_label_counts_used(self, losses: SampleMeanLoss) -> bool:
        """False if a loss was given the numbers of labels but did not divide by them, so that it
        must be computed again; from then on it does not get them."""
        self._counts_labels = self._counts_labels and not losses.undivided
        return not losses.undivided

    def _label_counts(self, inputs: dict) -> Tensor | None:
        """The number of labels of each sample (k,), as Trainer counts them; None if the loss should
        not get them."""
        if self._counts_labels is None:
            self._counts_labels = (
                self.compute_loss_func is not None or self._compute_loss_takes_counts()
            )
        labels = inputs.get("shift_labels", inputs.get("labels"))
        if not self._counts_labels or not isinstance(labels, Tensor) or not labels.ndim:
            return None
        if "shift_labels" not in inputs and self._shifts_labels():
            labels = labels[..., 1:]
        # (k, labels of one sample)
        has_label = labels.ne(IGNORE_INDEX).reshape(count_samples(inputs), -1)
        return has_label.sum(1)

    def _shifts_labels(self) -> bool:
        """Whether the first label of each sample is not predicted. (For GPT-2 and some others,
        Trainer counts it nevertheless.)"""
        causal = type(base_model(self.model)).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        return causal or getattr(self, "_loss_shifts_labels", False)

    def _compute_loss_takes_counts(self) -> bool:
        """Whether a subclass overrides compute_loss, with an argument for the number of labels."""
        overrides = (
            getattr(self.compute_loss, "__func__", None) is not SampleMeanTrainer.compute_loss
        )
        return overrides and "num_items_in_batch" in inspect.signature(self.compute_loss).parameters

    def _get_num_items_in_batch(
        self, batch_samples: list, device: torch.device
    ) -> Tensor | int | None:
        return None if self._losses is None else self._losses.items
