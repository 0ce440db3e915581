"""An evaluation in which every sample counts once, and what it keeps of each sample."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction
from transformers.trainer_utils import EvalLoopOutput

from ...models import replaced
from ..protocol import MeasuringView
from ..setup import deepspeed
from ..setup.precision import restoring_weights
from .evaluation_order import ByLength, by_length, in_dataset_order, output_in_dataset_order
from .sample_logits import LogitCollector, Reduce


class SampleEvaluation:
    """Runs a trainer's evaluations and keeps the losses of their samples and, within
    `collecting_logits` and `collecting_predictions`, values of their logits and their
    predictions."""

    def __init__(self, trainer: MeasuringView):
        self._trainer = trainer
        # The losses of the samples that this evaluation has seen.
        self._losses: list[Tensor] = []
        self._logits = LogitCollector()
        # Set within `collecting_logits`: reduces the logits of a batch to values per sample.
        self._reduce: Reduce | None = None
        self._collected: dict[str, dict[str, np.ndarray]] = {}
        # One dict for each `collecting_predictions` that is open.
        self._predictions: list[dict[str, EvalPrediction]] = []

    def sampler(self, dataset: Any) -> ByLength | None:
        """The sampler that puts texts of about the same length into one batch; None where Trainer's
        own sampler is used."""
        args = self._trainer.args
        usual = args.world_size == 1 and args.train_sampling_strategy != "group_by_length"
        if usual and args.predict_with_generate and not args.batch_eval_metrics:
            return by_length(dataset)
        return None

    def run(
        self, evaluate: Callable[[], EvalLoopOutput], order: np.ndarray | None, prefix: str
    ) -> EvalLoopOutput:
        """Trainer's evaluation, but every sample counts once: Trainer gives the last, smaller batch
        the weight of the others, and Seq2SeqTrainer keeps the samples that fill up the processes'
        last batches. Samples that were sorted to generate their texts are put back into order.

        Args:
            evaluate: Trainer's own evaluation.
            order: in which the samples are evaluated; None for the dataset's.
            prefix: `metric_key_prefix`.
        """
        trainer, args = self._trainer, self._trainer.args
        self._losses, self._logits = [], LogitCollector(self._reduce)
        trainer.gather_function = trainer.accelerator.gather_for_metrics
        rounded = (args.bf16_full_eval or args.fp16_full_eval) and not trainer.is_in_train
        weights = restoring_weights(trainer.model) if rounded else contextlib.nullcontext()
        with deepspeed.evaluating_without(trainer), weights, self._metrics_in_dataset_order(order):
            output = evaluate()
        if order is not None:
            output = output_in_dataset_order(output, order)
        for predictions in self._predictions:
            predictions[prefix] = EvalPrediction(output.predictions, output.label_ids)
        if (values := self._logits.values(order)) is not None:
            self._collected[prefix] = values
        if self._losses:
            loss = float(torch.cat(self._losses).double().mean())
            output = output._replace(metrics={**(output.metrics or {}), f"{prefix}_loss": loss})
        return output

    def _metrics_in_dataset_order(
        self, order: np.ndarray | None
    ) -> contextlib.AbstractContextManager[None]:
        compute_metrics = self._trainer.compute_metrics
        if order is None or compute_metrics is None:
            return contextlib.nullcontext()
        ordered = in_dataset_order(compute_metrics, order)
        return replaced(self._trainer, compute_metrics=ordered)

    def watching(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """The context in which the model computes one batch."""
        return self._logits.watching(model)

    def keep(self, losses: Tensor) -> None:
        """Keeps the losses (k,) of the last batch's samples, and the values of their logits, of all
        processes."""
        accelerator = self._trainer.accelerator
        self._losses.append(accelerator.gather_for_metrics(losses).cpu())
        self._logits.keep(accelerator)

    @contextlib.contextmanager
    def collecting_logits(self, reduce: Reduce) -> Iterator[dict[str, dict[str, np.ndarray]]]:
        """See `SampleMeanTrainer.collecting_logits`."""
        self._reduce, self._collected = reduce, {}
        try:
            yield self._collected
        finally:
            self._reduce = None

    @contextlib.contextmanager
    def collecting_predictions(self) -> Iterator[dict[str, EvalPrediction]]:
        """See `SampleMeanTrainer.collecting_predictions`."""
        predictions: dict[str, EvalPrediction] = {}
        self._predictions.append(predictions)
        try:
            yield predictions
        finally:
            self._predictions.pop()
