"""UnlearnTrainer: a Hugging Face Trainer whose training step forgets one dataset and keeps
another."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from accelerate.utils.memory import clear_device_cache
from huggingface_hub import CommitInfo
from peft import PeftConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import DataCollator, PreTrainedModel
from transformers.trainer_utils import TrainOutput

from ..config import UnlearnConfig, as_unlearn_config
from ..methods import Method, build_method, method_settings
from ..per_sample.shards import sharded_modules
from ..privacy.trackers import refuse_names_in_trackers
from ..report.html_page import Report
from ..report.results import Results
from ..report.run_layout import BEST
from .batches.columns import made_on_access, only_columns
from .batches.loading import TrainingLoader
from .checkpoints.checkpoint_files import copied, find_checkpoint
from .checkpoints.checkpointing import CheckpointSaver
from .checkpoints.earlier_run import EarlierRun
from .checkpoints.preemption import Preemption
from .checkpoints.start_weights import START
from .checkpoints.update_sketch import PreviousUpdates, keep_start, write_sketch
from .checks.compatibility import NO_FORGET, check_compatible, check_data, check_deepspeed
from .checks.evaluation_checks import check_evaluation
from .checks.overlap import warn_of_overlap
from .checks.previous_checks import check_previous, check_updates, earlier_identity
from .checks.prompts import warn_of_difference
from .frozen.encoder import encoder_once
from .frozen.parts import FrozenParts
from .publishing.publisher import Publisher
from .publishing.run_results import EVALUATION_SET, EvaluatedBefore, EvaluationSets
from .sample_mean_trainer import SampleMeanTrainer
from .samples.exchange import failures_told
from .samples.padding_check import PaddingCheck
from .samples.sample_access import SampleAccess
from .setup.adapters import keep_base, warn_if_base_differs
from .setup.model_setup import put_in_training_mode, save_whole_state_dicts, set_up_model
from .setup.precision import cast_inputs, input_precision, train_in_float32
from .setup.prepared_models import forget_preparation, sharded_once
from .setup.silence import Silence
from .setup.temperature import tempered
from .steps.attempts import Attempts
from .steps.drift import DriftControl
from .steps.nonfinite import SkippedSteps
from .steps.preparation import prepare_method
from .steps.step_runner import StepRunner
from .stopping.run_record import RunRecord, WatchedCallbacks, check_steps, run_identity
from .stopping.stopping_rules import StoppingRules


class UnlearnTrainer(SampleMeanTrainer):
    """Makes a model forget `forget_dataset` while it keeps `retain_dataset`; otherwise it is a
    `Seq2SeqTrainer`.

    Args:
        forget_dataset: the samples to forget. `train_dataset` is its alias, so that existing code
            needs one new line. Without it the trainer only evaluates.
        retain_dataset: the samples to keep, a few dozen or more, with a length and indexed access.
        previous_forget_dataset: samples that earlier requests made this model forget. Each step is
            orthogonal to the gradient of every one of them that is in its batch, so that to first
            order their losses do not fall (see `OrthoGrad`). `per_device_previous_batch_size` of
            them join the retain batch of a step. For orthograd and orthograd_metric.
        previous_updates: output folders of earlier requests that ran with `save_update_sketch`, for
            those whose samples are gone. Each step is orthogonal to the change of the weights that
            forgot them, which it would otherwise partly take back. Unlike with samples, the losses
            may still fall along other directions.
        eval_dataset: preferably a dict of splits, `{"forget": ..., "retain": ..., "test": ...}`.
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
    (`scrub`: a divergence), and `previous_loss` of the samples of `previous_forget_dataset`. For
    orthograd also `kept` = |u_perp| / |u|, `rank` (the numerical rank of the retain gradients, its
    mean over the projections) and `residual` (what is left of retain gradients in u_perp: see
    `OrthoGrad`). With `step_control="drift"` also `drift`, `expected_drift`, `forget_rise` and
    `step_factor` (see `DriftControl`).

    Attributes:
        stopping: what ended the training, for reports: reason (`max_steps`, `num_train_epochs`,
            `target reached`, `aborted`, `SIGTERM`, `no step forgets within max_drift`, or the class
            of another callback that stopped it), step, rules and the value that decided;
            `restored_step` if the model has the weights of another step.
        method_settings: the values that the method works with, by keyword.
        results: the content of results.json if a recipe has written it; else None, and the card
            says what the trainer itself knows.

    Raises:
        ValueError: at construction, for arguments that cannot work together; the message says why
            and what to do.
    """

    # Trainer infers from Whisper's **kwargs that the loss is already scaled, which is wrong:
    # Whisper averages over the batch.
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
        previous_forget_dataset: Dataset | datasets.Dataset | None = None,
        previous_updates: Sequence[str | Path] | None = None,
        peft_config: PeftConfig | None = None,
        **keywords: Any,
    ):
        args = as_unlearn_config(args)
        self.method: Method = build_method(args)
        self.method_settings = method_settings(args)
        if self.method.one_shot:
            args = copy.copy(args)
            args.max_steps = 1
        forget_dataset = _given_once(train_dataset, forget_dataset)
        check_deepspeed(self.method, args)
        check_data(self.method, forget_dataset, retain_dataset, args)
        check_previous(self.method, previous_forget_dataset, previous_updates, args)
        warn_of_overlap(forget_dataset, retain_dataset)
        warn_of_overlap(previous_forget_dataset, retain_dataset, "previous_forget_dataset")
        self.retain_dataset = retain_dataset
        self.previous_forget_dataset = previous_forget_dataset
        self.previous_updates = PreviousUpdates(previous_updates) if previous_updates else None
        self.results: Results | None = None
        # None while Trainer's constructor runs, which calls `init_hf_repo`
        self._publisher: Publisher | None = None
        self._loader = TrainingLoader(self)
        self._saver = CheckpointSaver(
            self, self._save_own_state, self._model_saved, self._best_model_loaded
        )
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
        if forget_dataset is not None:
            train_in_float32(self.model, self.optimizer)
        check_compatible(self.method, self)
        check_updates(self)
        check_evaluation(self)
        if forget_dataset is not None:
            save_whole_state_dicts(self.accelerator)
        refuse_names_in_trackers(args, self.model, eval_dataset)
        warn_of_difference(self)
        self._evaluation_sets, self._evaluation_set = EvaluationSets(eval_dataset), 1
        self._start_record()
        if args.push_to_hub:
            self.init_hf_repo()

    def _start_record(self) -> None:
        """Sets the attributes that the runs of this trainer share."""
        self._method_prepared = False
        self._model_known: nn.Module | None = None
        self._attempts = Attempts(self)
        self.record = RunRecord(self)
        self._publisher = Publisher(self, self.record)
        self._add_callbacks()
        self._reset_model_state()

    def _add_callbacks(self) -> None:
        args = self.args
        has_rules = args.stop_when or args.abort_when
        self.stopping_rules = StoppingRules(self, self.record) if has_rules else None
        self.skipped_steps, self._preemption = SkippedSteps(args.max_skipped_steps), Preemption()
        self.callback_handler = WatchedCallbacks(self.callback_handler)
        self._evaluated_before = EvaluatedBefore(self)
        self._drift = DriftControl(self) if args.step_control == "drift" else None
        for callback in (
            self._evaluated_before,
            self._drift,
            self.stopping_rules,
            self.skipped_steps,
            self._preemption,
            self.record.changes,
        ):
            if callback is not None:
                self.add_callback(callback)

    def _reset_model_state(self) -> None:
        """Discards what an earlier run found out about the model. What padding does to its losses
        is kept while the model is the same."""
        if self._model_known is not self.model:
            self._padding, self._model_known = PaddingCheck(self), self.model
            self.frozen = FrozenParts(self)
            silent = self.args.forget_objective == "silence"
            self.silence = Silence(self.model, self.processing_class) if silent else None
        self.samples = SampleAccess(self, self._padding, self.frozen)
        self._reset_steps()

    def _reset_steps(self) -> None:
        """Discards the batches and statistics of earlier steps."""
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
        return self.record.stopping(self.stopping_rules.report if self.stopping_rules else {})

    # ---- the step --------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict], num_batches: int, device: torch.device
    ) -> tuple[list[dict], None]:
        """As in Trainer, but without the duplicates that pad the last batch."""
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
        """Puts a model into training mode. BatchNorm layers keep using their running statistics
        unless `freeze_batch_norm=False`."""
        put_in_training_mode(model, self.args.freeze_batch_norm)
        # Schedule-free optimizers also have train and eval modes, as in Trainer.
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()

    def next_retain_batch(self) -> dict:
        """The retain batch of the current optimizer step, the same one at every call."""
        return self.step_runner.retain_batches.of_current_step()

    def previous_samples(self) -> int:
        """How many samples of the current step's retain batch belong to earlier requests. They
        follow the retain samples."""
        return self.step_runner.retain_batches.previous_samples()

    def constraint_samples(self) -> int:
        """How many samples of the current step's retain batch, its last ones, are not retained
        themselves, but have gradients that the step is orthogonal to: those of earlier requests,
        and with `forget_objective="silence"` the silence of all of them."""
        return self.step_runner.retain_batches.constraint_samples()

    def mean_loss(self, model: nn.Module, inputs: dict) -> Tensor:
        with self.frozen.active(), tempered(self.model, self.args.loss_temperature):
            return super().mean_loss(model, inputs)

    def prediction_step(self, model, inputs, *more, **keywords):
        has_labels = all(inputs.get(name) is not None for name in self.label_names or [""])
        if self.train_dataset is not None and has_labels:
            self.frozen.look(inputs)
        # All processes of a sharded model must take part in every pass.
        texts = self.args.predict_with_generate and not sharded_modules(self.model)
        encoder = encoder_once(self.model) if texts else contextlib.nullcontext()
        with self.frozen.active(), encoder:
            return super().prediction_step(model, inputs, *more, **keywords)

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

    def _remove_unused_columns(self, dataset, description: str | None = None):
        """As in Trainer, but the input of a transform that makes rows on access is kept."""
        if not (self.args.remove_unused_columns and made_on_access(dataset)):
            return super()._remove_unused_columns(dataset, description)
        self._set_signature_columns_if_needed()
        return only_columns(dataset, self._signature_columns)

    def _prepare_inputs(self, inputs: dict) -> dict:
        return cast_inputs(
            super()._prepare_inputs(inputs), input_precision(self.model), self.label_names
        )

    def get_train_dataloader(self) -> DataLoader:
        """As in Trainer, but random augmentation of a sample depends on seed, epoch and index
        alone."""
        with self._loader.seeded_forget_set(self.samples.padding.collator):
            return super().get_train_dataloader()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return super()._get_train_sampler(self._loader.sampler_dataset(train_dataset))

    def get_eval_dataloader(self, *arguments: Any, **keywords: Any) -> DataLoader:
        self.check_padding()
        return super().get_eval_dataloader(*arguments, **keywords)

    def get_test_dataloader(self, *arguments: Any, **keywords: Any) -> DataLoader:
        self.check_padding()
        return super().get_test_dataloader(*arguments, **keywords)

    def check_padding(self) -> None:
        """Finds out whether padding changes losses, before data are evaluated or trained on."""
        # With FSDP and DeepSpeed, accelerate has not moved the model yet, so the first step makes
        # this check.
        waits = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.train_dataset is not None and not waits:
            self.samples.check_padding(self._attempts.at_retain_batch)

    # ---- the run ---------------------------------------------------------------------------------

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *more: Any, **keywords: Any
    ) -> TrainOutput:
        """As in Trainer.

        Args:
            resume_from_checkpoint: a folder; True (on a command line: "true") for the last complete
                checkpoint of output_dir; "auto" for the same, or a start from the beginning if
                there is none yet. It defaults to `args.resume_from_checkpoint`.

        Raises:
            SystemExit: with code 143, after SIGTERM: a checkpoint is saved at the end of the step,
                and resuming from it continues the run.
            ValueError: `max_skipped_steps` steps in a row had a loss or gradient that was not
                finite; no optimizer step was taken at all, or none changed the weights; the
                checkpoint comes from ordinary training, or from a run with another method or
                forget set.
            OSError: a checkpoint could not be saved; the earlier ones are kept.
        """
        if self.train_dataset is None:
            raise ValueError(NO_FORGET)
        self.record.begun = True
        check_steps(self.args, self.train_dataset)
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        self._note_earlier_run_and_keep_base()
        run = run_identity(self.args, self.method_settings, self.train_dataset, self.label_names)
        run |= earlier_identity(self)
        checkpoint = find_checkpoint(resume_from_checkpoint, self.args.output_dir, run)
        self._publisher.remember_hidden(checkpoint)
        self.record.begin(run, checkpoint)
        self._evaluated_before.remember()
        self._attempts = Attempts(self)
        # New checks need backward passes, which DeepSpeed's engine would count as part of a step.
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
                prepare_method(self, self.samples, checkpoint)
                self._method_prepared = True
            if self.args.save_update_sketch:
                keep_start(self.model, Path(self.args.output_dir), checkpoint)
            output = super().train(checkpoint, *more, **keywords)
        self.record.require_a_step(self.skipped_steps.total)
        if self.args.save_update_sketch:
            rank, folder = self.args.update_sketch_rank, Path(self.args.output_dir)
            write_sketch(self.model, folder, rank, self.previous_updates)
        return output

    def _note_earlier_run_and_keep_base(self) -> None:
        """Records files of an earlier run. If the adapter's base model is in output_dir, keeps a
        copy of it."""
        if not sharded_modules(self.model) and self.is_world_process_zero():
            warn_if_base_differs(self.model)
        folder, main = Path(self.args.output_dir), self.args.should_save
        if folder.is_dir():
            keep_base(self.model, self.args.output_dir, main=main)
        keep = (BEST,) if self.stopping_rules else ()
        self._publisher.earlier_run = EarlierRun(folder, keep) if main else None
        self.accelerator.wait_for_everyone()

    def _inner_training_loop(self, batch_size=None, *more, **keywords):
        """As in Trainer, but starting afresh for each run and attempt."""
        while True:
            if self._model_known is not self.model:
                # `model_init` has made a new one.
                self._reset_model_state()
            self._reset_steps()
            self.skipped_steps.load(self.record.resumed_from)
            if self._drift:
                self._drift.begin(self.step_runner, self.record.resumed_from)
            self._attempts.begin(batch_size)
            try:
                self.check_padding()
                return super()._inner_training_loop(batch_size, *more, **keywords)
            except RuntimeError:
                if not self._attempts.shrink_retain_batch():
                    raise
            # After the except block, so that the exception no longer keeps its frames' tensors
            # alive.
            clear_device_cache(garbage_collection=True)

    def _run_epoch(self, **keywords) -> None:
        # When Trainer resumes from the last checkpoint of a finished run, it takes one more step.
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        self._loader.begin_epoch(keywords["epoch"])
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

    # ---- checkpoints -----------------------------------------------------------------------------

    def _save_own_state(self, checkpoint: Path) -> None:
        """Writes what resuming needs into a checkpoint."""
        more = {"drift": self._drift.state()} if self._drift else {}
        self.record.save(checkpoint, {**self.skipped_steps.state(), **more})
        if self.method.prepares is not None or self.args.save_update_sketch:
            copied(Path(self.args.output_dir) / START, checkpoint / START)
        if self.stopping_rules:
            self.stopping_rules.save(checkpoint)

    def _model_saved(self, folder: Path) -> None:
        if folder.samefile(self.args.output_dir):
            self._publisher.remove_earlier_run()

    def _best_model_loaded(self, checkpoint: Path) -> None:
        self.record.loaded(checkpoint)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._saver.save_checkpoint(super()._save_checkpoint, model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        self._saver.save_random_state(super()._save_rng_state, output_dir)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self._saver.save_model(super().save_model, output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        self._saver.save_files(super()._save, output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        self._saver.save_optimizer(super()._save_optimizer_and_scheduler, output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self._saver.load_optimizer(super()._load_optimizer_and_scheduler, checkpoint)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        self._saver.load_checkpoint(super()._load_from_checkpoint, resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: NamedTuple) -> None:
        self._saver.warn_after_load(super()._issue_warnings_after_load, load_result)

    def _load_best_model(self) -> None:
        self._saver.load_best_model(super()._load_best_model)

    # ---- evaluation and logs ---------------------------------------------------------------------

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

    # ---- results and publishing ------------------------------------------------------------------

    def own_results(self) -> Results:
        """What the trainer knows of its run, as a recipe's results.json would say it."""
        return self._publisher.own_results()

    def report(self) -> Report:
        """The run as a table (`print`), as HTML (the output of a notebook cell), or as a page
        (`.save("report.html")`)."""
        return self._publisher.report()

    def create_model_card(
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """As in Trainer, but local paths are left out.

        Writes results.json and the card (README.md) into output_dir; only the main process writes.
        Before any training, as in a script that only evaluates, it warns and writes nothing.

        Args:
            language: one or several, such as "en" or "English"; default: those of the base model's
                card.
            license: the Hub's identifier, such as "apache-2.0"; default: that of the base model's
                card.
            tags: one or several tags, added to the card's own.
            model_name: default: the folder's name.
            finetuned_from: id of the base model; default: what the model was loaded from.
            tasks: what the model does; default: derived from its class.
            dataset_tags: ids of one or several datasets on the Hub.
            dataset: names of the datasets for readers.
            dataset_args: configurations of the datasets.

        Raises:
            ValueError: the training took no optimizer step, or none that changed a weight.
        """
        self._publisher.create_model_card(
            {"language": language, "license": license, "model_name": model_name}
            | {"finetuned_from": finetuned_from, "tags": tags, "tasks": tasks}
            | {"dataset_tags": dataset_tags, "dataset": dataset, "dataset_args": dataset_args}
        )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in Trainer, but the repository is created only after all possible checks, so that a
        refused push leaves no empty repository.

        Raises:
            ValueError: a name or text names a forgotten person; the adapter's base model is not on
                the Hub.
            HubError: the Hub refused, or could not be reached.
        """
        self.push_in_progress = None
        # Trainer's constructor calls this before the checks of our own constructor.
        if self._publisher is not None:
            self._publisher.create_repository(token, private)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        *,
        merge: bool = False,
        **card: Any,
    ) -> CommitInfo | Future | None:
        """Saves and uploads model, processor, arguments, results and card (see `push_folder`). All
        processes must call it.

        Args:
            commit_message: message of the commit.
            blocking: whether to wait for the end of the upload.
            token: access token; default: `args.hub_token`, then that of `hf auth login`.
            revision: branch; default: `args.hub_revision`.
            private: whether a new repository is private; default: `args.hub_private_repo`.
            merge: upload an adapter merged into its base model.
            card: arguments of `create_model_card`.

        Returns:
            The commit, or a Future of it if not `blocking`; None on all processes but the main one.

        Raises:
            ValueError, HubError: as `push_folder`; ValueError also if no optimizer step was taken.
        """
        return self._publisher.push(commit_message, blocking, token, revision, private, merge, card)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self._publisher.push_checkpoint(Path(checkpoint_folder))


def _given_once(train_dataset: Any, forget_dataset: Any) -> Any:
    """The forget set, which may be given under either name.

    Raises:
        ValueError: both are given.
    """
    if train_dataset is not None and forget_dataset is not None:
        raise ValueError("train_dataset is an alias of forget_dataset: give one of them, not both")
    return train_dataset if forget_dataset is None else forget_dataset
