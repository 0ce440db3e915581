"""UnlearnTrainer: a Hugging Face Trainer whose training step forgets one data set and keeps
another."""

import contextlib
import copy
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import datasets
import torch
from accelerate.utils.memory import clear_device_cache
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from transformers import set_seed

from ..config import UnlearnConfig, as_unlearn_config
from ..methods import Method, build_method, method_settings
from ..per_sample.inputs import inputs_kept, own_copy
from ..per_sample.reference import count_samples, select_samples
from ..per_sample.shards import prepare_sharded, sharded_modules
from ..privacy.trackers import keep_names_from_trackers
from . import deepspeed
from .adapter_checks import check_task_type, with_adapter
from .adapters import check_base, keep_base
from .attempts import Attempts
from .checkpoint_files import copied, find_checkpoint
from .columns import made_on_access, only_columns
from .compatibility import (
    NO_FORGET,
    check_compatible,
    check_data,
    check_deepspeed,
    checkpoints_activations,
)
from .earlier_run import EarlierRun
from .exchange import all_processes, any_process, failures_told
from .loss import LossBySample
from .nonfinite import SkippedSteps, all_finite
from .overlap import warn_of_overlap
from .padding import PartsKept
from .precision import cast_inputs, input_precision, train_in_float32, weights_kept
from .preemption import Preemption
from .preparation import START, TrainerPreparation, load_start, save_start
from .prompts import warn_of_difference
from .retain_batches import (
    FORGET,
    RETAIN,
    RetainSampler,
    SeededDataset,
    random_state_kept,
    retain_dataloader,
)
from .run_record import RunRecord, WatchedCallbacks, check_steps, run_identity
from .run_results import EvaluatedBefore
from .sample_access import SampleAccess
from .step import TrainerStep
from .stopping import BEST, StoppingRules

STREAMS = (torch.utils.data.IterableDataset, datasets.IterableDataset)


class UnlearnTrainer(LossBySample):
    """Makes a model forget `forget_dataset` while it keeps `retain_dataset`; in all else a
    `Seq2SeqTrainer`.

    Args:
        forget_dataset: what is to be forgotten; `train_dataset` is its alias, so that existing code
            needs one new line. Without it the trainer evaluates only.
        retain_dataset: the (small) data that must be kept, with a length and indexed access.
        eval_dataset: best a dict of splits, `{"forget": ..., "retain": ..., "test": ...}`.
        peft_config: a `peft` configuration; the model is wrapped, and the adapter alone is trained.
        args, model, processing_class, data_collator, compute_metrics, callbacks, ...: as in
        `Seq2SeqTrainer`.

    The loss of a batch is the mean over its samples of what the model returns for each sample
    alone, in training and in evaluation, so that neither padding nor the composition of batches
    matters. The same goes for `compute_loss_func` and for a `compute_loss` that a subclass
    overrides: class weights (`CrossEntropyLoss(weight=...)`) weigh samples against each other, and
    `num_items_in_batch` is taken for each sample's own number of labels. Layers of the BatchNorm
    family keep their running statistics, since samples must not interact; `freeze_batch_norm=False`
    lets them work as in training. What is random in the model (dropout, LayerDrop, stochastic
    depth, SpecAugment, NEFTune's noise) is off in the steps of methods that project gradients, so
    that all of them are of the network that is evaluated; `freeze_randomness=False` leaves it on.
    Other methods train with it, as Trainer does. Batches are never changed: the model gets copies.

    Logged per step: `forget_loss` and `retain_loss`, which are what the method computes on these
    samples (`scrub`: a divergence), and for orthograd `kept` = |u_perp| / |u|, `rank` (numerical
    rank of the retain gradients; its mean over the projections) and `residual` (what is left of
    retain gradients in u_perp: see `OrthoGrad`).

    Attributes:
        stopping: what ended the training, for reports: reason (`max_steps`, `num_train_epochs`,
            `target reached`, `aborted`, `SIGTERM`, or the class of the callback that stopped it),
            step, rules and the value that decided; `restored_step` where the model has the weights
            of another step.

    Raises:
        ValueError: at construction, for arguments that cannot work together; the message says why
            and what to do.
    """

    loss_is_scaled_for_ga = False  # Whisper takes **kwargs but averages over its batch

    def __init__(
        self,
        model=None,
        args: UnlearnConfig | None = None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        *more,
        forget_dataset=None,
        retain_dataset=None,
        peft_config=None,
        **keywords,
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
        if peft_config is not None:
            model = _with_adapter(model, args, peft_config)
        check_task_type(model)
        if model is not None and sharded_modules(model):
            prepare_sharded(model)
        super().__init__(
            model,
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
        keep_names_from_trackers(args, self.model, eval_dataset)
        warn_of_difference(self)
        self.resumed_from: str | None = None
        self._prepared = False
        self._forget_everything_noted()
        self._attempts = Attempts(self)
        self._rules = StoppingRules(self) if args.stop_when or args.abort_when else None
        self._skipped, self._preemption = SkippedSteps(args.max_skipped_steps), Preemption()
        self.record, self.callback_handler = (
            RunRecord(self),
            WatchedCallbacks(self.callback_handler),
        )
        self._evaluated_before = EvaluatedBefore(self)
        for callback in (self._evaluated_before, self._rules, self._skipped, self._preemption):
            if callback is not None:
                self.add_callback(callback)
        self._constructed = True
        if args.push_to_hub:
            self.init_hf_repo()

    def _forget_everything_noted(self) -> None:
        """What is known of a run's model and steps belongs to no other run."""
        self.samples, self._model_known = SampleAccess(self), self.model
        self._epoch: Tensor | None = None  # that the forget samples' random numbers depend on
        self._forget_steps_noted()

    def _forget_steps_noted(self) -> None:
        # before any step
        self._retain_batches, self._retain_batch, self._retain_drawn = None, None, -2
        self._noted: dict[str, list[Tensor]] = defaultdict(list)  # in this optimizer step
        self._statistics: dict[str, list[Tensor]] = defaultdict(list)  # since the last log
        self._counted_steps = 0
        self.forget_batches, self._forget_parts = [], []

    @property
    def stopping(self) -> dict:
        report = {
            "reason": self.record.reason,
            "step": self.state.global_step,
            "rule": None,
            "abort_rule": None,
        }
        report |= self._rules.report if self._rules else {}
        return (
            report
            if self.record.weights_step is None
            else {**report, "restored_step": self.record.weights_step}
        )

    # ---- losses -----------------------------------------------------------------------------------------------------

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **gen_kwargs):
        if sharded_modules(self.model):  # all processes have to take part in each token
            gen_kwargs = {"synced_gpus": True, **gen_kwargs}
        # `inputs_kept`: labels, and what is computed after texts were generated
        with self.by_sample(inputs, strict=False) as losses, inputs_kept(model):
            loss, *more = super().prediction_step(
                model, own_copy(inputs), prediction_loss_only, ignore_keys, **gen_kwargs
            )
        if not self.used_labels(losses):
            return self.prediction_step(
                model, inputs, prediction_loss_only, ignore_keys, **gen_kwargs
            )
        if loss is not None:
            self._evaluated.append(
                self.accelerator.gather_for_metrics(losses.per_sample(loss)).cpu()
            )
        return loss, *more

    def call_model_init(self, trial=None) -> nn.Module:
        model = super().call_model_init(trial)
        train_in_float32(model)
        return model

    def _prepare_inputs(self, inputs):
        return cast_inputs(
            super()._prepare_inputs(inputs), input_precision(self.model), self.label_names
        )

    def evaluation_loop(
        self,
        dataloader,
        description,
        prediction_loss_only=None,
        ignore_keys=None,
        metric_key_prefix="eval",
    ):
        """As in Trainer, but every sample counts once: Trainer weighs the last, smaller batch like
        the others, and Seq2SeqTrainer keeps the samples that fill up the processes' last
        batches."""
        # evaluated before it is trained
        if self.accelerator.is_fsdp2 and not sharded_modules(self.model):
            self.create_optimizer()
            self.model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
            self.model_wrapped = self.model
        self._evaluated: list[Tensor] = []
        self.gather_function = self.accelerator.gather_for_metrics
        rounded = (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self.is_in_train
        with (
            deepspeed.evaluated_without(self),
            weights_kept(self.model) if rounded else contextlib.nullcontext(),
        ):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        if self._evaluated:
            output.metrics[f"{metric_key_prefix}_loss"] = float(
                torch.cat(self._evaluated).double().mean()
            )
        return output

    # ---- the step ---------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As in Trainer; what a data loader repeats to give every process a full last batch is
        taken out again."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [count_samples(batch) for batch in batches]
        if batches and self.args.world_size > 1:
            counts[-1] = min(counts[-1], self._not_repeated(counts[-1]))
            last = slice(max(counts[-1], 1))  # the last one weighs nothing if repeated
            batches[-1] = select_samples(batches[-1], last, count_samples(batches[-1]))
        total = int(self.accelerator.reduce(torch.tensor(sum(counts), device=self.args.device)))
        self.forget_batches = batches
        size, process = self.args.per_device_train_batch_size, self.args.process_index
        self._forget_parts = [
            (count / total, (n * self.args.world_size + process) * size)
            for n, count in enumerate(counts)
        ]
        return batches, None

    def _not_repeated(self, size: int) -> float:
        """How many samples of this process's last batch of an epoch, which has the same size on all
        processes, were not seen before in it."""
        state = self.accelerator.gradient_state
        if not state.end_of_dataloader or state.remainder <= 0:
            return float("inf")
        return max(0, state.remainder - self.args.process_index * size)

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch=None) -> Tensor:
        """One micro-batch of forget samples and, after the last one of an optimizer step, the
        retain batch."""
        self.set_training_mode(model)
        step = TrainerStep(self, model, self._prepare_inputs(inputs), *self._forget_parts.pop(0))
        self.samples.find_out(step)  # before .grad is there, which would add to the check's memory
        with self.samples.one_network():
            return self._losses_of(step)

    def _losses_of(self, step: TrainerStep) -> Tensor:
        loss = torch.zeros((), device=self.args.device)
        if self.method.uses_forget:
            loss = self.method.forget(step)
            self._noted["forget_loss"].append(loss)
        if self.accelerator.sync_gradients:
            if self.method.uses_retain and self._everywhere_finite(step):
                with self._attempts.at_retain_batch():
                    for name, value in self._retain(step).items():
                        self._noted[name].append(value)
                loss = loss if self.method.uses_forget else self._noted["retain_loss"][-1]
            self.method.finish(step)
            self._finish_step(step)
        return loss

    def _retain(self, step: TrainerStep) -> dict[str, Tensor]:
        step.draw_retain_batch()
        if (
            self.method.per_sample and self.samples.engine is None
        ):  # so the step is skipped, and the next one tries again
            return {"retain_loss": torch.tensor(torch.nan, device=self.args.device)}
        return self.method.retain(step)

    def _everywhere_finite(self, step: TrainerStep) -> bool:
        # it has the gradient, and must see the last backward pass to throw it away
        if self.is_deepspeed_enabled:
            return True
        return not any(
            any_process([not all_finite(p.grad for p in step.parameters)], self.args.device)
        )

    def _finish_step(self, step: TrainerStep) -> None:
        """All processes agree on whether the optimizer may use the gradient, and on whether the
        training goes on."""
        losses = [
            loss for name in ("forget_loss", "retain_loss") for loss in self._noted.get(name, [])
        ]
        flags = [
            not all_finite(losses),
            not all_finite(p.grad for p in step.parameters),
            self._preemption.asked,
        ]
        bad_loss, bad_gradient, self._preemption.agreed = any_process(flags, self.args.device)
        scaler, scaled = self.accelerator.scaler, self.accelerator.scaler is not None
        if self.is_deepspeed_enabled:
            bad_gradient = not deepspeed.take_step(
                self.deepspeed, step.parameters, finite=not bad_gradient
            )
            scaled = self.deepspeed.fp16_enabled()
        # finite losses with an overflow are the scaler's own business
        if bad_loss or bad_gradient and not scaled:
            broken = [name for names in all_processes(self.samples.broken(step)) for name in names]
            self._skipped.skip(self.state, broken, step.parameters, scaler)
        elif not bad_gradient:
            self._skipped.in_a_row = 0
            self._counted_steps += 1
            self.record.step_taken()
            for name, values in self._noted.items():
                self._statistics[name].append(torch.stack(values).sum())
        self._noted.clear()

    def set_training_mode(self, model: nn.Module) -> None:
        model.train()
        for module in model.modules():
            if self.args.freeze_batch_norm and isinstance(module, _BatchNorm):
                module.eval()
        # schedule-free optimizers, as in Trainer
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()

    @property
    def _data_seed(self) -> int:
        return self.args.data_seed if self.args.data_seed is not None else self.args.seed

    def get_train_dataloader(self) -> DataLoader:
        """As in Trainer, but random augmentation in a sample depends on seed, epoch and index
        alone."""
        forget = self.train_dataset
        collator, self._forget_rows = self.data_collator, forget
        self.data_collator = self._own_parts_kept(collator)
        try:
            if isinstance(forget, STREAMS):
                return super().get_train_dataloader()
            self.train_dataset = SeededDataset(
                self.collated(forget, "training")[0], self._data_seed, FORGET
            )
            self._epoch = self.train_dataset.epoch
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = forget, collator

    def _own_parts_kept(self, collator):
        return PartsKept(collator) if self.samples.without_padding else collator

    def used_datasets(self) -> dict:
        """The data sets that the method looks at."""
        prepares = self.method.prepares or ()
        used = {
            "forget": self.method.uses_forget or "forget" in prepares,
            "retain": self.method.uses_retain or "retain" in prepares,
        }
        of_split = {"forget": self.train_dataset, "retain": self.retain_dataset}
        return {split: of_split[split] for split, wanted in used.items() if wanted}

    def some_rows(self, split: str, dataset, most: int) -> tuple[list, Callable]:
        """At most so many samples, spread over a data set, and its collator; none of one that is
        iterable only."""
        if isinstance(dataset, STREAMS):
            return [], self.data_collator
        dataset, collator = self.collated(dataset, split)
        places = sorted(
            {n * (len(dataset) - 1) // max(1, most - 1) for n in range(most)}
            if len(dataset)
            else ()
        )
        rows = SeededDataset(dataset, self._data_seed, FORGET if split == "forget" else RETAIN)
        return [rows[n] for n in places], collator

    def next_retain_batch(self) -> dict:
        """The retain batch of the current optimizer step; the same one, however often it is asked
        for."""
        if self._retain_drawn == self.state.global_step:
            return self._retain_batch
        if self._retain_drawn + 1 != self.state.global_step:
            self.retain_sampler = RetainSampler(
                len(self.retain_dataset),
                self.args.per_device_retain_batch_size,
                self._data_seed,
                self.args.process_index,
                self.args.world_size,
                self.state.global_step,
            )
            dataset, collator = self.collated(self.retain_dataset, "retain")
            collator = self._own_parts_kept(collator)
            self._retain_batches = iter(
                retain_dataloader(dataset, self.retain_sampler, collator, self.args)
            )
        self._retain_drawn = self.state.global_step
        self._retain_batch = self._prepare_inputs(next(self._retain_batches))
        return self._retain_batch

    def _remove_unused_columns(self, dataset, description: str | None = None):
        """As in Trainer, but rows that are made on access keep what they are made of."""
        if not (self.args.remove_unused_columns and made_on_access(dataset)):
            return super()._remove_unused_columns(dataset, description)
        self._set_signature_columns_if_needed()
        return only_columns(dataset, self._signature_columns)

    def _get_train_sampler(self, train_dataset=None):
        """As in Trainer, which looks for the length column after it has taken it away."""
        forget, args = self._forget_rows, self.args
        by_length = args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
        if (
            by_length
            and isinstance(forget, datasets.Dataset)
            and args.length_column_name in forget.column_names
        ):
            train_dataset = forget.select_columns(args.length_column_name).with_format(None)
        return super()._get_train_sampler(train_dataset)

    def collated(self, dataset, description: str):
        """A dataset and its collator, without the columns that the model does not take."""
        if isinstance(dataset, datasets.Dataset):
            return self._remove_unused_columns(dataset, description=description), self.data_collator
        return dataset, self._get_collator_with_removed_columns(
            self.data_collator, description=description
        )

    # ---- the run ----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *more, **keywords):
        """As in Trainer, and `args.resume_from_checkpoint` counts where nothing is given here.

        Args:
            resume_from_checkpoint: a folder; True (on a command line: "true") for the last complete
                checkpoint of output_dir; "auto" for the same, or a start from the beginning where
                there is none yet.

        Raises:
            SystemExit: with code 143, after SIGTERM: a checkpoint is saved at the end of the step,
                and resuming from it continues the run.
            ValueError: `max_skipped_steps` steps in a row had a loss or gradient that was not
                finite; no optimizer step was taken at all; the checkpoint is of ordinary training,
                or of a run with another method or forget set.
            OSError: a checkpoint could not be saved; what was there before is left.
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
        # whose engine would listen to what is found out about the samples anew
        if not self.is_deepspeed_enabled:
            self._forget_everything_noted()
        self._attempts = Attempts(self)
        self._forget_preparation()
        with (
            failures_told(),
            self._preemption.listening(),
            self._sharded_once(),
            self.record.running(),
        ):
            self._prepare_method()
            output = super().train(self.resumed_from, *more, **keywords)
        self.record.require_a_step(self._skipped.total)
        return output

    def _look_at_output_dir(self) -> None:
        """What is there may be of another run, or the model that the adapter which is trained
        belongs to."""
        if not sharded_modules(self.model) and self.is_world_process_zero():
            check_base(self.model)
        if Path(self.args.output_dir).is_dir():
            keep_base(self.model, self.args.output_dir, main=self.args.should_save)
        keep = (BEST,) if self._rules else ()
        self._earlier_run = (
            EarlierRun(Path(self.args.output_dir), keep) if self.args.should_save else None
        )
        self.accelerator.wait_for_everyone()

    def _inner_training_loop(self, batch_size=None, *more, **keywords):
        """As in Trainer; what an earlier run or attempt has left is not taken for this one's."""
        while True:
            if self._model_known is not self.model:  # model_init has made a new one
                self._forget_everything_noted()
            self._forget_steps_noted()
            self._skipped.load(self.resumed_from)
            self._attempts.begin(batch_size)
            self.samples.find_whether_padding_matters()
            try:
                return super()._inner_training_loop(batch_size, *more, **keywords)
            except RuntimeError:
                if not self._attempts.shrink_retain_batch():
                    raise
            # where no error holds the tensors of its frames any more
            clear_device_cache(garbage_collection=True)

    def _hp_search_setup(self, trial) -> None:
        super()._hp_search_setup(trial)
        if (
            trial is not None and self.hp_search_backend is not None
        ):  # it may have changed alpha, or another argument of ours
            self.method, self.method_settings = build_method(self.args), method_settings(self.args)
            check_compatible(self.method, self)

    @contextlib.contextmanager
    def _sharded_once(self):
        """accelerate fails at a model that it has put into shards before: for an evaluation, or
        another training."""
        accelerator = self.accelerator
        if not (accelerator.is_fsdp2 and sharded_modules(self.model)):
            yield
            return
        prepare = accelerator.prepare

        def prepare_others(*objects, **keywords):
            if not any(x is self.model for x in objects):
                return prepare(*objects, **keywords)
            model, optimizer = objects
            accelerator._models.append(model)
            accelerator._optimizers.append(optimizer)
            return objects

        accelerator.prepare = prepare_others
        try:
            yield
        finally:
            del accelerator.prepare

    def _forget_preparation(self) -> None:
        """Trainer prepares a model that is evaluated before it is trained for evaluation alone, and
        would then train it without DistributedDataParallel: each process by itself."""
        prepared = self.accelerator._models
        if sharded_modules(self.model):
            return
        if (self.args.world_size > 1 or self.is_deepspeed_enabled) and any(
            model is self.model for model in prepared
        ):
            prepared[:] = [model for model in prepared if model is not self.model]
            # takes autocast off its forward
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            del self.model._is_accelerate_prepared

    def _prepare_method(self) -> None:
        """Lets the method look at the model as it is before unlearning, in a resumed run as it was
        then. What needs backward passes is found out here, too, where DeepSpeed is about to listen
        to them."""
        method = self.method
        if self._prepared or (method.prepares is None and not self.is_deepspeed_enabled):
            return
        if self.is_deepspeed_enabled:
            deepspeed.to_its_precision(self)
        if method.prepares is not None and self.resumed_from:
            load_start(self.model, Path(self.resumed_from) / START)
        if method.prepares is not None and self.args.should_save:
            save_start(self.model, Path(self.args.output_dir) / START)
        start = TrainerPreparation(self)
        with self.samples.without_randomness(), random_state_kept(self.args.device):
            set_seed(self.args.seed)  # for data that are made different each time
            self.samples.find_whether_padding_matters()
            if method.prepares or self.is_deepspeed_enabled:
                split = next(
                    iter(method.prepares or ()), "forget" if method.uses_forget else "retain"
                )
                batch = next(start.batches(split, shared=False))
                self.samples.find_whether_mixed(
                    TrainerStep(self, self.model, batch, share=1.0, place=0)
                )
            method.prepare(start)
        self._prepared = True

    def _run_epoch(self, **keywords) -> None:
        # Trainer takes one more step when it resumes from the last checkpoint of a run that was at
        # its end.
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        if self._epoch is not None:
            self._epoch.fill_(keywords["epoch"])
        super()._run_epoch(**keywords)

    def _save_own_state(self, checkpoint: Path) -> None:
        self._skipped.save(checkpoint, **self.record.state())
        if self.method.prepares is not None:
            copied(Path(self.args.output_dir) / START, checkpoint / START)
        if self._rules:
            self._rules.save(checkpoint)

    # ---- logs -------------------------------------------------------------------------------------------------------

    def log(self, logs: dict, start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {**logs, **self._step_statistics(), "skipped_steps": self._skipped.total}
        if self.record.weights_step is not None and any(name.startswith("eval_") for name in logs):
            logs = {**logs, "weights_step": self.record.weights_step}
        super().log(logs, start_time)

    def _step_statistics(self) -> dict[str, float]:
        """Means over the optimizer steps since the last log, and over processes for what differs
        between them."""
        means = {}
        for name, values in self._statistics.items():
            total = torch.stack([value.float() for value in values]).sum() / self._counted_steps
            if name in ("forget_loss", "retain_loss"):
                total = self.accelerator.reduce(total, "mean")
            means[name] = float(total)
        self._statistics.clear()
        self._counted_steps = 0
        return means


def _with_adapter(model: nn.Module | None, args: UnlearnConfig, peft_config) -> nn.Module:
    if model is None:
        raise ValueError(
            "peft_config needs model: with model_init, let it return the model with its adapter"
        )
    if isinstance(model, PeftModel) or getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            "the model has an adapter already, which a new one would not be saved with: merge that "
            "one first "
            "(PeftModel.from_pretrained(base, folder).merge_and_unload()), save the model and load "
            "it from there; or go on "
            "training the adapter without peft_config"
        )
    if args.gradient_checkpointing or checkpoints_activations(model):
        model.enable_input_require_grads()  # else checkpoints drop what comes before an adapter
        if args.ddp_find_unused_parameters is None:
            # as Trainer chooses for models without an adapter
            args.ddp_find_unused_parameters = False
    return with_adapter(model, peft_config)
