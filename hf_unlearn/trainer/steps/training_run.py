"""What `UnlearnTrainer.train` does around Trainer's own training: it prepares the method, and
starts each run and attempt afresh."""

import functools
from collections.abc import Callable
from pathlib import Path

from transformers.trainer_utils import TrainOutput

from ...report.file_names import BEST
from ..checkpoints.checkpoint_files import find_checkpoint, link_into_checkpoint
from ..checkpoints.preemption import Preemption
from ..checkpoints.run_identity import run_identity
from ..checkpoints.start_weights import START, keep_start
from ..checks.data_checks import NO_FORGET
from ..checks.training_steps import check_steps
from ..processes import reporting_failures_of_others
from ..protocol import RunView
from ..publishing.publisher import Publisher
from ..publishing.run_results import EvaluatedBefore
from ..setup.adapters import keep_base_model
from ..setup.prepared_models import keeping_shards, prepare_again
from ..stopping.run_record import RunRecord
from ..stopping.stopping_rules import StoppingRules
from ..update_sketch import write_updates
from .attempts import Attempts
from .checked_model import CheckedModel
from .drift import DriftControl
from .nonfinite import SkippedSteps
from .preparation import prepare_method
from .step_runner import StepRunner


class TrainingRun:
    """The runs of one trainer, and what they consist of.

    Args:
        record: is started afresh by each run.
        publisher: looks for the files of an earlier run when a run begins.

    Attributes:
        stopping_rules: None without `stop_when` and `abort_when`.
        skipped_steps: counts the steps that were skipped.
        checked_model: the model that is trained, with what is known of it.
        step_runner: runs the steps of the current attempt.
    """

    def __init__(self, trainer: RunView, record: RunRecord, publisher: Publisher):
        args = trainer.args
        self._trainer, self._record, self._publisher = trainer, record, publisher
        self._method_prepared = False
        self._attempts = Attempts(trainer)
        has_rules = args.stop_when or args.abort_when
        self.stopping_rules = StoppingRules(trainer, record) if has_rules else None
        self.skipped_steps, self._preemption = SkippedSteps(args.max_skipped_steps), Preemption()
        self._evaluated_before = EvaluatedBefore()
        has_drift = args.step_control == "drift"
        self._drift = DriftControl(trainer, lambda: self.step_runner) if has_drift else None
        for callback in (
            self._evaluated_before,
            self._drift,
            self.stopping_rules,
            self.skipped_steps,
            self._preemption,
            record.changes,
        ):
            if callback is not None:
                trainer.add_callback(callback)
        self.checked_model = CheckedModel(trainer)
        self.step_runner = self._new_step_runner()

    def _new_step_runner(self) -> StepRunner:
        """A runner of the coming steps, without the batches and statistics of earlier ones."""
        return StepRunner(
            self._trainer,
            self.checked_model.samples,
            self.checked_model.silence,
            self._attempts,
            self.skipped_steps,
            self._record,
            self._preemption,
        )

    def check_padding(self) -> None:
        """Finds out whether padding changes losses, before data is evaluated or trained on."""
        self.checked_model.check_padding(self._attempts.at_retain_batch)

    @property
    def stopping(self) -> dict:
        """What ended the training, for reports."""
        return self._record.stopping(self.stopping_rules.report if self.stopping_rules else {})

    # ---- a run -----------------------------------------------------------------------------------

    def run(
        self, wanted: str | bool | None, train: Callable[[str | None], TrainOutput]
    ) -> TrainOutput:
        """Runs the training; see `UnlearnTrainer.train`.

        Args:
            wanted: the argument `resume_from_checkpoint`.
            train: Trainer's own training, from a checkpoint or from the beginning.
        """
        trainer, args = self._trainer, self._trainer.args
        checkpoint = self._begin(wanted)
        with (
            reporting_failures_of_others(),
            self._preemption.listening(),
            keeping_shards(trainer),
            self._record.running(),
        ):
            if not self._method_prepared:
                prepare_method(trainer, self.checked_model.samples, checkpoint)
                self._method_prepared = True
            if args.save_update_sketch:
                keep_start(trainer.model, Path(args.output_dir), checkpoint)
            output = train(checkpoint)
        self._record.require_a_step(self.skipped_steps.total)
        if args.save_update_sketch:
            rank, folder = args.update_sketch_rank, Path(args.output_dir)
            write_updates(trainer.model, folder / START, folder, rank, trainer.previous_updates)
        return output

    def _begin(self, wanted: str | bool | None) -> str | None:
        """Begins the record of a run; returns the checkpoint that it resumes from."""
        trainer, args = self._trainer, self._trainer.args
        if trainer.train_dataset is None:
            raise ValueError(NO_FORGET)
        wanted = args.resume_from_checkpoint if wanted is None else wanted
        self._record.begun = True
        check_steps(args, trainer.train_dataset)
        keep_base_model(trainer)
        self._publisher.find_earlier_run((BEST,) if self.stopping_rules else ())
        trainer.accelerator.wait_for_everyone()
        run = run_identity(trainer)
        checkpoint = find_checkpoint(wanted, args.output_dir, run)
        self._publisher.remember_hidden(checkpoint)
        self._record.begin(run, checkpoint)
        self._evaluated_before.remember(trainer.state.log_history)
        self._attempts = Attempts(trainer)
        # New checks need backward passes, which DeepSpeed's engine would count as part of a step.
        if not trainer.is_deepspeed_enabled:
            self._discard_checks()
        prepare_again(trainer)
        return checkpoint

    def _discard_checks(self) -> None:
        """Discards what an earlier run has found out about batches."""
        self._follow_model()
        self.checked_model.discard_checks()
        self.step_runner = self._new_step_runner()

    def _follow_model(self) -> None:
        """Discards what is known of the model if `model_init` has made another one."""
        if not self.checked_model.is_for(self._trainer.model):
            self.checked_model = CheckedModel(self._trainer)

    def run_attempts(self, batch_size: int, attempt: Callable[[], TrainOutput]) -> TrainOutput:
        """Runs Trainer's loop, and again with smaller batches if it runs out of memory."""
        return self._attempts.run(functools.partial(self._attempt, batch_size, attempt))

    def _attempt(self, batch_size: int, attempt: Callable[[], TrainOutput]) -> TrainOutput:
        self._follow_model()
        self.step_runner = self._new_step_runner()
        checkpoint = self._record.resumed_from
        self.skipped_steps.load(checkpoint)
        if self._drift:
            self._drift.begin(checkpoint)
        self._attempts.begin(batch_size)
        self.check_padding()
        return attempt()

    def save(self, checkpoint: Path) -> None:
        """Writes what resuming needs into a checkpoint."""
        args = self._trainer.args
        more = {"drift": self._drift.state()} if self._drift else {}
        self._record.save(checkpoint, {**self.skipped_steps.state(), **more})
        if self._trainer.method.prepares is not None or args.save_update_sketch:
            link_into_checkpoint(Path(args.output_dir) / START, checkpoint / START)
        if self.stopping_rules:
            self.stopping_rules.save(checkpoint)

    def log_entry(self, logs: dict) -> dict:
        """Trainer's log entry with the means of the steps' values, and with the step whose weights
        are evaluated if it is not the last."""
        if "loss" in logs:
            means = self.step_runner.statistics.means(self._trainer.accelerator)
            logs = {**logs, **means, "skipped_steps": self.skipped_steps.total}
        weights_step = self._record.weights_step
        if weights_step is not None and any(name.startswith("eval_") for name in logs):
            logs = {**logs, "weights_step": weights_step}
        return logs
