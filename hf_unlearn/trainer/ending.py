"""How a run ended, of which step its weights are, and whether it took any step at all: what cards
may say of it."""

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from .checkpoint_files import saved_state
from .preemption import Preemption
from .seeded import seeded

NOTHING_DONE = "no optimizer step was taken, so nothing is forgotten"
NO_BATCH = (
    "the forget set gave no batch: give it samples, and see dataloader_drop_last, max_steps and "
    "num_train_epochs"
)
LABELLED = 16  # forget samples whose labels tell one forget set from another


class WatchedCallbacks(CallbackHandler):
    """Trainer's callbacks; knows which one asked for the training to stop.

    Attributes:
        stopped_by: that callback, the first one of this training; None if none has asked.
    """

    def __init__(self, handler: CallbackHandler):
        self.__dict__.update(vars(handler))
        self.stopped_by = None

    def call_event(self, event, args, state, control, **kwargs):
        if event == "on_train_begin":
            self.stopped_by = None
        for callback in self.callbacks:
            alone = copy.copy(self)
            alone.callbacks = [callback]
            control = super(WatchedCallbacks, alone).call_event(
                event, args, state, control, **kwargs
            )
            if control.should_training_stop and self.stopped_by is None:
                self.stopped_by = callback
        return control


class RunRecord:
    """What is known of a run beside Trainer's state; checkpoints keep it.

    Attributes:
        steps: optimizer steps that were taken, those before a checkpoint that was resumed from
            among them. Steps that were skipped, since something was not finite, do not count.
        weights_step: the step whose weights the model has, where that is not the last one; else
            None.
        begun: whether there was any training.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.steps, self.weights_step, self.begun, self.run = 0, None, False, {}
        self._reason: str | None = "not trained"

    def begin(self, run: dict, checkpoint: str | None) -> None:
        saved = saved_state(checkpoint) if checkpoint else {}
        self.run, self.weights_step = run, saved.get("weights_step")
        # Checkpoints of earlier versions do not count steps: then those of Trainer, but for the
        # skipped ones.
        earlier = _global_step(checkpoint) - saved.get("skipped_steps", 0) if checkpoint else 0
        self.steps = saved.get("steps", earlier)

    def step_taken(self) -> None:
        self.steps, self.weights_step = self.steps + 1, None

    def state(self) -> dict:
        return {"steps": self.steps, "weights_step": self.weights_step, "run": self.run}

    def loaded(self, checkpoint: str) -> None:
        """Notes that the model has got the weights of a checkpoint, after the last step."""
        step = saved_state(checkpoint).get("weights_step")
        step = _global_step(checkpoint) if step is None else step
        self.weights_step = None if step == self.trainer.state.global_step else step

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._reason = "training in progress"
        try:
            yield
        except BaseException as error:
            self._reason = f"interrupted by {type(error).__name__}"
            # accelerate, of an empty stream
            if not self.steps and "Batch does not contain any data" in str(error):
                raise ValueError(f"{NOTHING_DONE}: {NO_BATCH}") from error
            raise
        self._reason = None

    @property
    def reason(self) -> str:
        """What ended the training: `max_steps`, `num_train_epochs`, `SIGTERM`, the class of the
        callback that asked for it, `interrupted by ...` an exception, or `no more samples`."""
        if self._reason is not None:
            return self._reason
        args, state, callback = (
            self.trainer.args,
            self.trainer.state,
            self.trainer.callback_handler.stopped_by,
        )
        if isinstance(callback, Preemption):
            return "SIGTERM"
        if callback is not None and not isinstance(callback, DefaultFlowCallback):
            return type(callback).__name__
        if state.global_step >= state.max_steps:
            return "max_steps" if args.max_steps > 0 else "num_train_epochs"
        return "no more samples"

    def require_a_step(self, skipped: int) -> None:
        """Raises ValueError where training has ended without a single step."""
        if self.steps:
            return
        callback = self.trainer.callback_handler.stopped_by
        if self.trainer.state.global_step:
            why = (
                f"all {skipped or self.trainer.state.global_step} were skipped, since their loss "
                "or gradient was not "
                "finite: remove what is broken in the data, lower learning_rate, or use bf16 in "
                "place of fp16"
            )
        elif callback is not None and not isinstance(callback, DefaultFlowCallback):
            why = f"{type(callback).__name__} stopped the training before the first one"
        else:
            why = NO_BATCH
        raise ValueError(f"{NOTHING_DONE}: {why}")


def _global_step(checkpoint: str) -> int:
    return json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"]


def check_steps(args, forget_dataset) -> None:
    """Raises ValueError where the arguments allow no optimizer step, as far as that can be known
    before training."""
    if args.max_steps == 0 or args.max_steps < 0 and args.num_train_epochs <= 0:
        name = "max_steps" if args.max_steps == 0 else "num_train_epochs"
        raise ValueError(
            f"{name} is {getattr(args, name)}, so that no step would be taken: set it above 0"
        )
    if not hasattr(forget_dataset, "__len__"):
        return
    count, batch = len(forget_dataset), args.train_batch_size * args.world_size
    if count == 0:
        raise ValueError(
            "the forget set has no samples, so that no step would be taken: give at least one"
        )
    if args.dataloader_drop_last and count < batch:
        raise ValueError(
            f"the forget set has {count} samples and a batch of all processes {batch}, so that "
            "with dataloader_drop_last no "
            "step would be taken: lower per_device_train_batch_size, or leave dataloader_drop_last "
            "out"
        )


def run_of(trainer) -> dict:
    """What a checkpoint must have in common with the run that resumes from it; None stands for what
    is not known."""
    args = trainer.args
    run = {
        "method": str(args.method),
        **trainer.method_settings,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "forget samples": _size(trainer.train_dataset),
        "forget labels": labels_digest(trainer.train_dataset, trainer.label_names),
    }
    return json.loads(json.dumps(run, default=str))


def _size(dataset) -> int | None:
    stream = isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(
        dataset, "__len__"
    )
    return None if stream else len(dataset)


def labels_digest(dataset, label_names: list[str]) -> int | None:
    """Tells one forget set from another by the labels of some of its samples; None where it is a
    stream or has no such labels.

    Labels alone: features are numbers that another machine may round otherwise. A number, since
    what is pushed to the Hub has its texts redacted.
    """
    if not _size(dataset):
        return None
    label_names = sorted({"label", "label_ids", *label_names})
    # other columns may be costly to decode, and are perhaps never read
    if isinstance(dataset, datasets.Dataset):
        own = [name for name in label_names if name in dataset.column_names]
        if not own:
            return None
        dataset = dataset.with_format(None).select_columns(own)
    places = np.linspace(0, len(dataset) - 1, min(len(dataset), LABELLED)).round().astype(int)
    found = hashlib.sha256()
    for place in places.tolist():
        with seeded(0, place):
            sample = dataset[place]
        names = [name for name in label_names if isinstance(sample, dict) and name in sample]
        if not names:
            return None
        for name in names:
            value = sample[name]
            found.update(
                repr(
                    value.tolist() if isinstance(value, torch.Tensor | np.ndarray) else value
                ).encode()
            )
    return int(found.hexdigest()[:12], 16)
