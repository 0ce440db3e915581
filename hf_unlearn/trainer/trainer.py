"""UnlearnTrainer: a Trainer whose training step forgets one dataset and keeps another."""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import datasets
import torch
from huggingface_hub import CommitInfo
from peft import PeftConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import DataCollator, PreTrainedModel, Seq2SeqTrainer
from transformers.trainer_utils import TrainOutput

from ..config import UnlearnConfig, as_unlearn_config, with_suggestions
from ..methods import build_method, method_settings
from ..report.html_page import Report
from ..report.results import Results
from .batches.loading import TrainingLoader
from .checkpoints.checkpointing import CheckpointSaver, LoadResult
from .checks.compatibility import check_compatible
from .checks.construction import check_after, check_before, one_forget_set
from .losses.temperature import dividing_logits
from .publishing.publisher import Publisher
from .publishing.run_results import EvaluationSets
from .sample_mean_trainer import SampleMeanTrainer
from .setup.model_setup import put_in_training_mode, save_whole_state_dicts, set_up_model
from .setup.precision import train_in_float32
from .steps.training_run import TrainingRun
from .stopping.run_record import RunRecord
from .stopping.watched_callbacks import WatchedCallbacks
from .update_sketch import EarlierUpdates


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
            `Seq2SeqTrainer`. `trainer.args` is a copy that holds what the trainer changes, such as
            the batch sizes that `auto_find_batch_size` finds.

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

    Each step logs `forget_loss` and `retain_loss`, the means over its samples. Methods that project
    also log `kept` (|u_perp| / |u|; near 0, little is left to forget with), `rank` (how many of the
    retain gradients are linearly independent; with granularity "parameter" the mean over tensors)
    and `residual` (the largest |<u_perp, g_n>| / (|u| |g_n|) that is left).

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

    args: UnlearnConfig
    eval_dataset: Any

    @with_suggestions(Seq2SeqTrainer.__init__)
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
        self.method, self.method_settings = build_method(args), method_settings(args)
        if self.method.one_shot:
            args.max_steps = 1
        forget_dataset = one_forget_set(train_dataset, forget_dataset)
        earlier = previous_forget_dataset, previous_updates
        check_before(
            self.method, args, model, peft_config, forget_dataset, retain_dataset, *earlier
        )
        self.retain_dataset = retain_dataset
        self.previous_forget_dataset = previous_forget_dataset
        self.previous_updates = EarlierUpdates(previous_updates) if previous_updates else None
        self.results: Results | None = None
        self._loader = TrainingLoader(self)
        self._evaluation_sets = EvaluationSets(eval_dataset)
        # None while Trainer's constructor runs, which calls `init_hf_repo`
        self._publisher: Publisher | None = None
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
        # The step itself divides by the number of micro-batches. Older versions of transformers let
        # accelerate divide once more.
        self.accelerator.gradient_accumulation_steps = 1
        if forget_dataset is not None:
            train_in_float32(self.model, self.optimizer)
        check_after(self)
        # After the checks, which refuse what has no such state.
        if forget_dataset is not None:
            save_whole_state_dicts(self.accelerator)
        self.callback_handler = callbacks = WatchedCallbacks(self.callback_handler)
        self.record = RunRecord(self, callbacks)
        self._publisher = Publisher(self, self.record)
        self.training_run = TrainingRun(self, self.record, self._publisher)
        self._saver = CheckpointSaver(
            self, self.training_run.save, self._publisher.model_saved, self.record.loaded
        )
        if args.push_to_hub:
            self.init_hf_repo()

    @property
    def stopping(self) -> dict:
        return self.training_run.stopping

    # ---- the step --------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict], num_batches: int, device: torch.device
    ) -> tuple[list[dict], None]:
        """As in Trainer, but without the duplicates that pad the last batch."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return self.training_run.step_runner.forget_batches.begin_step(batches), None

    def training_step(
        self, model: nn.Module, inputs: dict, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Computes one micro-batch of forget samples and, after the last one of an optimizer step,
        the retain batch."""
        self.set_training_mode(model)
        return self.training_run.step_runner.run(model, self._prepare_inputs(inputs))

    def set_training_mode(self, model: nn.Module) -> None:
        """Puts a model into training mode. BatchNorm layers keep using their running statistics
        unless `freeze_batch_norm=False`."""
        put_in_training_mode(model, self.args.freeze_batch_norm, self.optimizer)

    def mean_loss(self, model: nn.Module, inputs: dict) -> Tensor:
        with (
            self.training_run.checked_model.frozen.active(),
            dividing_logits(self.model, self.args.loss_temperature),
        ):
            return super().mean_loss(model, inputs)

    # As in SampleMeanTrainer: the loss is a tensor.
    def prediction_step(  # type: ignore[override]
        self, model: nn.Module, inputs: dict[str, Any], *more: Any, **keywords: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        with self.training_run.checked_model.evaluating_batch(inputs):
            return super().prediction_step(model, inputs, *more, **keywords)

    # ---- data ------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """As in Trainer, but random augmentation of a sample depends only on seed, epoch and
        index."""
        with self._loader.seeded_forget_set(self.training_run.checked_model.padding.collator):
            return super().get_train_dataloader()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return super()._get_train_sampler(self._loader.sampler_dataset(train_dataset))

    def get_eval_dataloader(self, *arguments: Any, **keywords: Any) -> DataLoader:
        self.training_run.check_padding()
        return super().get_eval_dataloader(*arguments, **keywords)

    def get_test_dataloader(self, *arguments: Any, **keywords: Any) -> DataLoader:
        self.training_run.check_padding()
        return super().get_test_dataloader(*arguments, **keywords)

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
        train = super().train
        return self.training_run.run(
            resume_from_checkpoint, lambda checkpoint: train(checkpoint, *more, **keywords)
        )

    def _inner_training_loop(
        self, batch_size: int | None = None, *more: Any, **keywords: Any
    ) -> TrainOutput:
        """As in Trainer, but starting afresh for each run and attempt."""
        loop = functools.partial(super()._inner_training_loop, batch_size, *more, **keywords)
        return self.training_run.run_attempts(batch_size, loop)

    # Trainer calls it with keywords only.
    def _run_epoch(self, **keywords: Any) -> None:  # type: ignore[override]
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

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        if trial is not None and self.hp_search_backend is not None:
            # The trial may have changed alpha, or another argument of the method.
            self.method, self.method_settings = build_method(self.args), method_settings(self.args)
            check_compatible(self.method, self)

    # ---- checkpoints -----------------------------------------------------------------------------

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

    def _issue_warnings_after_load(self, load_result: LoadResult) -> None:
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
        """As in Trainer. A dataset without a prefix of its own gets a number, so that the card does
        not confuse it with `self.eval_dataset`."""
        with self._evaluation_sets.evaluating(eval_dataset, metric_key_prefix):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix, **gen_kwargs)

    def log(self, logs: dict, start_time: float | None = None) -> None:
        """As in Trainer, with the means of the steps' values, and with the step whose weights are
        evaluated if it is not the last."""
        logs = self.training_run.log_entry(logs)
        super().log(self._evaluation_sets.with_number(logs), start_time)

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
        """As in Trainer, but local paths are left out. Of what is not given, the base model's card
        gives the language and the license.

        Writes results.json and the card (README.md) into output_dir; only the main process writes.
        Before any training, as in a script that only evaluates, it warns and writes nothing.

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

    # It may also return a Future or None, as Trainer's does.
    def push_to_hub(  # type: ignore[override]
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
            commit_message, blocking, token, revision: as in Trainer.
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
