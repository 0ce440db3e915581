"""UnlearnTrainer: a Hugging Face Trainer whose training step forgets one data set and keeps
another."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils.memory import clear_device_cache
from peft import PeftConfig
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset
from transformers import DataCollator, PreTrainedModel
from transformers.trainer_utils import TrainOutput

from ..config import UnlearnConfig, as_unlearn_config
from ..methods import Method, build_method, method_settings
from ..per_sample.shards import sharded_modules
from ..privacy.trackers import keep_names_from_trackers
from .adapters import check_base, keep_base
from .attempts import Attempts
from .checkpoint_files import copied, find_checkpoint
from .compatibility import NO_FORGET, check_compatible, check_data, check_deepspeed
from .earlier_run import EarlierRun
from .evaluation_checks import check_evaluation
from .exchange import failures_told
from .loss import LossBySample
from .model_setup import set_up_model
from .nonfinite import SkippedSteps
from .overlap import warn_of_overlap
from .precision import train_in_float32
from .preemption import Preemption
from .preparation import prepare_method
from .prepared_models import forget_preparation, sharded_once
from .prompts import warn_of_difference
from .run_record import RunRecord, WatchedCallbacks, check_steps, run_identity
from .run_results import EVALUATION_SET, EvaluatedBefore, EvaluationSets
from .sample_access import SampleAccess
from .start_weights import START
from .step_runner import StepRunner
from .stopping import BEST, StoppingRules


class UnlearnTrainer(LossBySample):
    """Makes a model forget `forget_dataset` while it keeps `retain_dataset`; otherwise it is a
    `Seq2SeqTrainer`.

    Args:
        forget_dataset: the samples to forget. `train_dataset` is its alias, so that existing code
            needs one new line. Without it the trainer only evaluates.
        retain_dataset: the samples to keep, a few dozen or more, with a length and indexed access.
        eval_dataset: best a dict of splits, `{"forget": ..., "retain": ..., "test": ...}`.
        peft_config: a `peft` configuration; the model is wrapped, and only the adapter is trained.
        args, model, processing_class, data_collator, compute_metrics, callbacks, ...: as in
            `Seq2SeqTrainer`.

    The loss of a batch is the mean over its samples of what the model returns for each sample
    alone, in training and in evaluation. So neither padding nor the composition of batches matters.
    The same holds for `compute_loss_func` and for a `compute_loss` that a subclass overrides: class
    weights (`CrossEntropyLoss(weight=...)`) weigh samples against each other, and
    `num_items_in_batch` is each sample's own number of labels.

    BatchNorm layers keep their running statistics, because samples must not interact;
    `freeze_batch_norm=False` lets them work as in training. In the steps of methods that project
    gradients, the model's randomness (dropout, LayerDrop, stochastic depth, SpecAugment, NEFTune's
    noise) is off, so that all gradients are of the network that is evaluated;
    `freeze_randomness=False` leaves it on. Other methods train with it, as Trainer does. Batches
    are never changed: the model gets copies.

    Logged per step: `forget_loss` and `retain_loss`, as the method computes them on these samples
    (`scrub`: a divergence). For orthograd also `kept` = |u_perp| / |u|, `rank` (the numerical rank
    of the retain gradients, its mean over the projections) and `residual` (what is left of retain
    gradients in u_perp: see `OrthoGrad`).

    Attributes:
        stopping: what ended the training, for reports: reason (`max_steps`, `num_train_epochs`,
            `target reached`, `aborted`, `SIGTERM`, or the class of the callback that stopped it),
            step, rules and the value that decided; `restored_step` if the model has the weights of
            another step.

    Raises:
        ValueError: at construction, for arguments that cannot work together; the message says why
            and what to do.
    """

    # Whisper takes **kwargs, from which Trainer infers the opposite, but averages over its batch.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: UnlearnConfig | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: Dataset | datasets.Dataset | None = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *more: Any,
        forget_dataset: Dataset | datasets.Dataset | None = None,
        retain_dataset: Dataset | datasets.Dataset | None = None,
        peft_config: PeftConfig | None = None,
        **keywords: Any,
    ):
        args = as_unlearn_config(args)
        self.method: Method = build_method(args)
        self.method_settings = method_settings(args)
        if self.method.one_shot:
            args = copy.copy(args)
            args.max_steps = 1
        check_deepspeed(self.method, args)
        if train_dataset is not None and forget_dataset is not None:
            raise ValueError(
                "train_dataset is an alias of forget_dataset: give one of them, not both"
            )
        forget_dataset = train_dataset if forget_dataset is None else forget_dataset
        check_data(self.method, forget_dataset, retain_dataset, args)
        warn_of_overlap(forget_dataset, retain_dataset)
        super().__init__(
            set_up_model(model, args, peft_config),
            args,
            data_collator,
            forget_dataset,
            eval_dataset,
            processing_class,
            *more,
            **keywords,
        )
        self.retain_dataset = retain_dataset
        if forget_dataset is not None:
            train_in_float32(self.model, self.optimizer)
        check_compatible(self.method, self)
        check_evaluation(self)
        keep_names_from_trackers(args, self.model, eval_dataset)
        warn_of_difference(self)
        self._evaluation_sets, self._evaluation_set = EvaluationSets(eval_dataset), 1
        self.resumed_from: str | None = None
        self._method_prepared = False
        self._earlier_run: EarlierRun | None = None
        self._attempts = Attempts(self)
        self._add_callbacks()
        self._reset_model_state()
        self._constructed = True
        if args.push_to_hub:
            self.init_hf_repo()

    def _add_callbacks(self) -> None:
        args = self.args
        self.stopping_rules = StoppingRules(self) if args.stop_when or args.abort_when else None
        self.skipped_steps, self._preemption = SkippedSteps(args.max_skipped_steps), Preemption()
        self.record = RunRecord(self)
        self.callback_handler = WatchedCallbacks(self.callback_handler)
        self._evaluated_before = EvaluatedBefore(self)
        for callback in (
            self._evaluated_before,
            self.stopping_rules,
            self.skipped_steps,
            self._preemption,
            self.record.changes,
        ):
            if callback is not None:
                self.add_callback(callback)

    def _reset_model_state(self) -> None:
        """Forgets what was found out about the model, which holds for one run only."""
        self.samples, self._model_known = SampleAccess(self), self.model
        self._reset_steps()

    def _reset_steps(self) -> None:
        """Forgets the batches and statistics of earlier steps."""
        self.step_runner = StepRunner(
            self,
            self.samples,
            self._attempts,
            self.skipped_steps,
            self.record,
            self._preemption,
        )

    @property
    def stopping(self) -> dict:
        report = {
            "reason": self.record.reason,
            "step": self.state.global_step,
            "rule": None,
            "abort_rule": None,
        }
        if self.stopping_rules:
            report |= self.stopping_rules.report
        if self.record.weights_step is not None:
            report["restored_step"] = self.record.weights_step
        return report

    # ---- the step --------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict], num_batches: int, device: torch.device
    ) -> tuple[list[dict], None]:
        """As in Trainer, but without the samples that a data loader repeats to give every process a
        full last batch."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return self.step_runner.forget_batches.begin_step(batches), None

    def training_step(
        self, model: nn.Module, inputs: dict, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Computes one micro-batch of forget samples and, after the last one of an optimizer step,
        the retain batch."""
        self.set_training_mode(model)
        return self.step_runner.run(model, self._prepare_inputs(inputs))

    def set_training_mode(self, model: nn.Module) -> None:
        """Puts a model into training mode, without BatchNorm's statistics of batches unless
        `freeze_batch_norm=False`."""
        model.train()
        for module in model.modules():
            if self.args.freeze_batch_norm and isinstance(module, _BatchNorm):
                module.eval()
        # As in Trainer: schedule-free optimizers have modes, too.
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()

    def next_retain_batch(self) -> dict:
        """The retain batch of the current optimizer step, the same one at every call."""
        return self.step_runner.retain_batches.of_current_step()

    def training_collator(self, collator: Callable[[list], dict]) -> Callable[[list], dict]:
        return self.samples.training_collator(collator)

    # ---- the run ---------------------------------------------------------------------------------

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *more: Any, **keywords: Any
    ) -> TrainOutput:
        """As in Trainer; `args.resume_from_checkpoint` counts if nothing is given here.

        Args:
            resume_from_checkpoint: a folder; True (on a command line: "true") for the last complete
                checkpoint of output_dir; "auto" for the same, or a start from the beginning if
                there is none yet.

        Raises:
            SystemExit: with code 143, after SIGTERM: a checkpoint is saved at the end of the step,
                and resuming from it continues the run.
            ValueError: `max_skipped_steps` steps in a row had a loss or gradient that was not
                finite; no optimizer step was taken at all, or none changed the weights; the
                checkpoint is of ordinary training, or of a run with another method or forget set.
            OSError: a checkpoint could not be saved; the earlier ones are kept.
        """
        if self.train_dataset is None:
            raise ValueError(NO_FORGET)
        self.record.begun = True
        check_steps(self.args, self.train_dataset)
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        self._look_at_output_dir()
        run = run_identity(self.args, self.method_settings, self.train_dataset, self.label_names)
        self.resumed_from = find_checkpoint(resume_from_checkpoint, self.args.output_dir, run)
        self.remember_hidden(self.resumed_from)
        self.record.begin(run, self.resumed_from)
        self._evaluated_before.remember()
        self._attempts = Attempts(self)
        # DeepSpeed's engine would listen to the backward passes of new checks.
        if not self.is_deepspeed_enabled:
            self._reset_model_state()
        forget_preparation(self)
        with (
            failures_told(),
            self._preemption.listening(),
            sharded_once(self),
            self.record.running(),
        ):
            if not self._method_prepared:
                prepare_method(self, self.samples, self.resumed_from)
                self._method_prepared = True
            output = super().train(self.resumed_from, *more, **keywords)
        self.record.require_a_step(self.skipped_steps.total)
        return output

    def _look_at_output_dir(self) -> None:
        """Notes what another run has left there, and keeps the base model that the adapter in
        training belongs to if it is there."""
        if not sharded_modules(self.model) and self.is_world_process_zero():
            check_base(self.model)
        folder, main = Path(self.args.output_dir), self.args.should_save
        if folder.is_dir():
            keep_base(self.model, self.args.output_dir, main=main)
        keep = (BEST,) if self.stopping_rules else ()
        self._earlier_run = EarlierRun(folder, keep) if main else None
        self.accelerator.wait_for_everyone()

    def _inner_training_loop(self, batch_size=None, *more, **keywords):
        """As in Trainer, but starting afresh for each run and attempt."""
        while True:
            if self._model_known is not self.model:
                # `model_init` has made a new one.
                self._reset_model_state()
            self._reset_steps()
            self.skipped_steps.load(self.resumed_from)
            self._attempts.begin(batch_size)
            self.samples.check_padding()
            try:
                return super()._inner_training_loop(batch_size, *more, **keywords)
            except RuntimeError:
                if not self._attempts.shrink_retain_batch():
                    raise
            # Outside of `except`, where the error no longer holds the tensors of its frames.
            clear_device_cache(garbage_collection=True)

    def _run_epoch(self, **keywords) -> None:
        # When Trainer resumes from the last checkpoint of a finished run, it takes one more step.
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**keywords)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        model = super().call_model_init(trial)
        train_in_float32(model)
        return model

    def _hp_search_setup(self, trial) -> None:
        super()._hp_search_setup(trial)
        if trial is not None and self.hp_search_backend is not None:
            # The trial may have changed alpha, or another argument of the method.
            self.method, self.method_settings = build_method(self.args), method_settings(self.args)
            check_compatible(self.method, self)

    def _save_own_state(self, checkpoint: Path) -> None:
        self.skipped_steps.save(checkpoint, **self.record.state())
        if self.method.prepares is not None:
            copied(Path(self.args.output_dir) / START, checkpoint / START)
        if self.stopping_rules:
            self.stopping_rules.save(checkpoint)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: Any,
    ) -> dict[str, float]:
        """As in Trainer; a dataset that is given without a prefix of its own is told apart from
        `self.eval_dataset` in the card."""
        unnamed = metric_key_prefix == "eval" and not isinstance(eval_dataset, str | dict | None)
        self._evaluation_set = self._evaluation_sets.number(eval_dataset) if unnamed else 1
        try:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix, **gen_kwargs)
        finally:
            self._evaluation_set = 1

    # ---- logs ------------------------------------------------------------------------------------

    def log(self, logs: dict, start_time: float | None = None) -> None:
        """As in Trainer, with the means of the steps' values, and with the step whose weights are
        evaluated if it is not the last."""
        if "loss" in logs:
            means = self.step_runner.statistics.means(self.accelerator)
            logs = {**logs, **means, "skipped_steps": self.skipped_steps.total}
        if self.record.weights_step is not None and any(name.startswith("eval_") for name in logs):
            logs = {**logs, "weights_step": self.record.weights_step}
        if self._evaluation_set > 1:
            logs = {**logs, EVALUATION_SET: self._evaluation_set}
        super().log(logs, start_time)
