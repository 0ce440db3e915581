"""The loss that UnlearnTrainer computes of a batch, in training and in evaluation: the mean over
its samples, whether the model, a function or a subclass computes it."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Seq2SeqTrainer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_utils import EvalLoopOutput

from ..config import unknown_argument
from ..per_sample import SampleMeanLoss
from ..per_sample.adapted_models import base_model
from ..per_sample.inputs import IGNORE_INDEX, inputs_kept, own_copy
from ..per_sample.reference import count_samples
from ..per_sample.shards import sharded_modules
from .batches.evaluation_order import by_length, in_dataset_order, order_of, output_in_dataset_order
from .batches.loading import LoadingTrainer
from .batches.noted_logits import NotedLogits, Reduce
from .setup import deepspeed
from .setup.precision import weights_kept


class LossBySample(LoadingTrainer):
    """The part of `UnlearnTrainer` that computes losses: the mean over samples of the model's loss,
    of `compute_loss_func`, and of a `compute_loss` that a subclass overrides.

    A loss that sums over labels and divides by `num_items_in_batch` gets each sample's own number
    of labels instead, so that it is a mean over samples, too (see `SampleMeanLoss`).
    """

    def __init__(self, *arguments: Any, **keywords: Any):
        # Collects per-sample losses during compute_loss; None outside.
        self._losses: SampleMeanLoss | None = None
        # Whether the loss divides by the number of labels; None until it is asked.
        self._counts_labels: bool | None = None
        # The loss functions called for the last `mean_loss`, and its value.
        self._last: tuple[SampleMeanLoss, Tensor] | None = None
        # The losses of the samples that an evaluation has seen.
        self._evaluated: list[Tensor] = []
        # Set within `logits_noted`: reduces the logits of a batch to values per sample.
        self._reduce_logits: Reduce | None = None
        self._noted = NotedLogits()
        self._noted_before: dict[str, dict[str, np.ndarray]] = {}
        try:
            super().__init__(*arguments, **keywords)
        except TypeError as error:
            own = ["forget_dataset", "retain_dataset", "previous_forget_dataset"]
            own += ["previous_updates", "peft_config"]
            known = [*own, *inspect.signature(Seq2SeqTrainer.__init__).parameters]
            raise unknown_argument(error, keywords, known) from error.__cause__
        if (given := self.compute_loss_func) is not None:
            self.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: given(
                outputs, labels, num_items_in_batch=self._losses.items
            )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
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
            known = {} if losses.items is None else {"num_items_in_batch": losses.items}
            loss = self.compute_loss(model, own_copy(inputs), **known)
        if not self._check_label_counts_used(losses):
            return self.mean_loss(model, inputs)
        self._last = losses, loss.detach()
        return loss

    @property
    def last_sample_losses(self) -> Tensor | None:
        """The losses (k,) of the samples of the batch whose `mean_loss` was computed last, without
        a gradient; None if the model combines several losses, which do not show them."""
        losses, loss = self._last
        return losses.known_per_sample(loss)

    def check_padding(self) -> None:
        """For subclasses: finds out whether padding changes losses, before data are evaluated."""

    def get_eval_dataloader(self, *arguments: Any, **keywords: Any) -> DataLoader:
        self.check_padding()
        return super().get_eval_dataloader(*arguments, **keywords)

    def get_test_dataloader(self, *arguments: Any, **keywords: Any) -> DataLoader:
        self.check_padding()
        return super().get_test_dataloader(*arguments, **keywords)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **gen_kwargs):
        if sharded_modules(self.model):
            # All processes must take part in every token that is generated.
            gen_kwargs = {"synced_gpus": True, **gen_kwargs}
        # `inputs_kept`: Trainer reads labels and inputs again after the texts are generated.
        watching = self._noted.watching(model)
        with self._by_sample(inputs, strict=False) as losses, inputs_kept(model), watching:
            loss, *more = super().prediction_step(
                model, own_copy(inputs), prediction_loss_only, ignore_keys, **gen_kwargs
            )
        if not self._check_label_counts_used(losses):
            return self.prediction_step(
                model, inputs, prediction_loss_only, ignore_keys, **gen_kwargs
            )
        if loss is not None:
            of_samples = self.accelerator.gather_for_metrics(losses.per_sample(loss))
            self._evaluated.append(of_samples.cpu())
            self._noted.keep(self.accelerator)
        return loss, *more

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As in Trainer, but every sample counts once: Trainer gives the last, smaller batch the
        weight of the others, and Seq2SeqTrainer keeps the samples that fill up the processes' last
        batches. Samples that were sorted to generate their texts are put back into order."""
        self._shard_untrained_model()
        self._evaluated, self._noted = [], NotedLogits(self._reduce_logits)
        self.gather_function = self.accelerator.gather_for_metrics
        rounded = (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self.is_in_train
        weights = weights_kept(self.model) if rounded else contextlib.nullcontext()
        order = order_of(dataloader)
        with deepspeed.evaluated_without(self), weights, self._metrics_in_dataset_order(order):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        if order is not None:
            output = output_in_dataset_order(output, order)
        if (noted := self._noted.values(order)) is not None:
            self._noted_before[metric_key_prefix] = noted
        if self._evaluated:
            mean = torch.cat(self._evaluated).double().mean()
            output.metrics[f"{metric_key_prefix}_loss"] = float(mean)
        return output

    @contextlib.contextmanager
    def logits_noted(self, reduce: Reduce) -> Iterator[dict[str, dict[str, np.ndarray]]]:
        """Within this context evaluations note what `reduce(logits, labels)` gives for each sample,
        also where their metrics are of generated texts.

        Yields:
            {metric_key_prefix: {name: values (n, ...)}}, in the dataset's order, without the
            evaluations whose logits do not belong to the labels.
        """
        self._reduce_logits, self._noted_before = reduce, {}
        try:
            yield self._noted_before
        finally:
            self._reduce_logits = None

    @contextlib.contextmanager
    def _metrics_in_dataset_order(self, order: np.ndarray | None) -> Iterator[None]:
        given = self.compute_metrics
        if order is not None and given is not None:
            self.compute_metrics = in_dataset_order(given, order)
        try:
            yield
        finally:
            self.compute_metrics = given

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        args = self.args
        usual = args.world_size == 1 and args.train_sampling_strategy != "group_by_length"
        if usual and args.predict_with_generate and not args.batch_eval_metrics:
            if (sampler := by_length(eval_dataset)) is not None:
                return sampler
        return super()._get_eval_sampler(eval_dataset)

    def _shard_untrained_model(self) -> None:
        """Lets accelerate shard a model that is evaluated before it is trained."""
        if self.accelerator.is_fsdp2 and not sharded_modules(self.model):
            self.create_optimizer()
            self.model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
            self.model_wrapped = self.model

    @contextlib.contextmanager
    def _by_sample(self, inputs: dict, strict: bool = True) -> Iterator[SampleMeanLoss]:
        """Within this context losses of these inputs are means over their samples."""
        before = self._losses
        counts = self._label_counts(inputs)
        with SampleMeanLoss(count_samples(inputs), strict, counts) as self._losses:
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
        own = getattr(self.compute_loss, "__func__", None) is LossBySample.compute_loss
        return not own and "num_items_in_batch" in inspect.signature(self.compute_loss).parameters

    def _get_num_items_in_batch(self, batch_samples, device):
        return None if self._losses is None else self._losses.items
