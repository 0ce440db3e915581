"""The record of a run: how many steps it took, why it ended, and the step of its weights."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import DefaultFlowCallback

from ...report.file_names import UNLEARN_STATE
from ..checkpoints.checkpoint_files import saved_state
from ..checkpoints.preemption import Preemption
from ..processes import any_process
from ..protocol import RunView
from .watched_callbacks import WatchedCallbacks
from .weight_changes import WeightChanges

NOTHING_DONE = "no optimizer step was taken, so nothing was forgotten"
UNCHANGED = "no optimizer step changed the weights, so nothing was forgotten"
NO_BATCH = (
    "the forget set gave no batch: check that it has samples, and check dataloader_drop_last, "
    "max_steps and num_train_epochs"
)


class RunRecord:
    """What is known about a run beyond Trainer's state. Checkpoints store it.

    Args:
        callbacks: the trainer's callback handler, which remembers what stopped the training.

    Attributes:
        steps: number of optimizer steps taken, including those before the checkpoint that the run
            was resumed from. Steps skipped because of non-finite values do not count.
        weights_step: the step whose weights the model holds if that is not the last step, else
            None.
        changes: whether these steps have changed the weights. The trainer adds it to its
            callbacks.
        begun: whether `train` was ever called.
        run: what identifies this run (see `run_identity`).
        resumed_from: the checkpoint that the current training resumed from, if any.
    """

    def __init__(self, trainer: RunView, callbacks: WatchedCallbacks):
        self._trainer, self._callbacks = trainer, callbacks
        self.steps, self.changes = 0, WeightChanges()
        self.weights_step: int | None = None
        self.begun = False
        self.run: dict = {}
        self.resumed_from: str | None = None
        self._reason: str | None = "not trained"

    def begin(self, run: dict, checkpoint: str | None) -> None:
        """Starts the record of a run, or continues the one stored in `checkpoint`."""
        saved = saved_state(checkpoint) if checkpoint else {}
        self.run, self.weights_step = run, saved.get("weights_step")
        self.resumed_from = checkpoint
        # Checkpoints of earlier versions do not store the number of steps: take Trainer's count
        # without the skipped steps.
        counted = _global_step(checkpoint) - saved.get("skipped_steps", 0) if checkpoint else 0
        self.steps = saved.get("steps", counted)
        # DeepSpeed's engine owns the gradients, and one-shot methods need no optimizer.
        trusted = self._trainer.is_deepspeed_enabled or self._trainer.method.one_shot
        self.changes.begin(changed=trusted or saved.get("changed", self.steps > 0))

    def step_taken(self) -> None:
        self.steps, self.weights_step = self.steps + 1, None

    def save(self, checkpoint: Path, further: dict) -> None:
        """Stores the record in a checkpoint.

        Args:
            further: what else `saved_state` is to return.
        """
        record = {
            "steps": self.steps,
            "changed": self.changes.changed,
            "weights_step": self.weights_step,
            "run": self.run,
        }
        (checkpoint / UNLEARN_STATE).write_text(json.dumps({**further, **record}))

    def loaded(self, checkpoint: str | Path) -> None:
        """Notes that the weights of a checkpoint were loaded after the last step."""
        step = saved_state(checkpoint).get("weights_step")
        step = _global_step(checkpoint) if step is None else step
        self.weights_step = None if step == self._trainer.state.global_step else step

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Wraps the training, and notes the exception that interrupts it.

        Raises:
            ValueError: the forget set is an empty stream.
        """
        self._reason = "training in progress"
        try:
            yield
        except BaseException as error:
            self._reason = f"interrupted by {type(error).__name__}"
            # accelerate's message for an empty stream
            if not self.steps and "Batch does not contain any data" in str(error):
                raise ValueError(f"{NOTHING_DONE}: {NO_BATCH}") from error
            raise
        self._reason = None

    @property
    def reason(self) -> str:
        """What ended the training: `max_steps`, `num_train_epochs`, `SIGTERM`, the callback that
        stopped it (its `stopping_reason` if it has one, else its class), `interrupted by ...` an
        exception, or `no more samples`."""
        if self._reason is not None:
            return self._reason
        args, state = self._trainer.args, self._trainer.state
        callback = self._stopping_callback()
        if isinstance(callback, Preemption):
            return "SIGTERM"
        if callback is not None:
            return getattr(callback, "stopping_reason", None) or type(callback).__name__
        if state.global_step >= state.max_steps:
            return "max_steps" if args.max_steps > 0 else "num_train_epochs"
        return "no more samples"

    @property
    def nothing_done(self) -> str | None:
        """Says that the model has forgotten nothing, where that is so."""
        if not self.steps:
            return NOTHING_DONE
        return None if self.changes.changed else UNCHANGED

    def stopping(self, by_rules: dict) -> dict:
        """What ended the training, for reports (`UnlearnTrainer.stopping`).

        Args:
            by_rules: what the stopping rules report; {} if there are none.
        """
        step = self._trainer.state.global_step
        report = {"reason": self.reason, "step": step, "rule": None, "abort_rule": None} | by_rules
        if self.weights_step is not None:
            report["restored_step"] = self.weights_step
        return report

    def require_a_step(self, skipped: int) -> None:
        """Raises if the training took no optimizer step or changed no weight. Called after
        training.

        Args:
            skipped: number of optimizer steps that were skipped.

        Raises:
            ValueError: the training took no optimizer step, or no step changed a weight.
        """
        if self.steps:
            flags = [self.changes.changed, self.changes.had_gradient]
            changed, had_gradient = any_process(flags, self._trainer.args.device)
            self.changes.changed = changed or not had_gradient
            if not self.changes.changed:
                raise ValueError(f"{self.nothing_done}: {self.changes.reason}")
            return
        if global_step := self._trainer.state.global_step:
            why = (
                f"all {skipped or global_step} were skipped because their loss or gradient was not "
                "finite. Remove broken samples, lower learning_rate, or use bf16 instead of fp16"
            )
        elif (callback := self._stopping_callback()) is not None:
            why = f"{type(callback).__name__} stopped the training before the first one"
        else:
            why = NO_BATCH
        raise ValueError(f"{NOTHING_DONE}: {why}")

    def _stopping_callback(self) -> TrainerCallback | None:
        """The callback that stopped the training, unless it was Trainer's own, at the last step."""
        callback = self._callbacks.stopped_by
        return None if isinstance(callback, DefaultFlowCallback) else callback


def _global_step(checkpoint: str | Path) -> int:
    return json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text())["global_step"]
