"""`auto_find_batch_size`: attempts at a training with smaller and smaller batches, each starting
from the same state."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers.utils import logging

from ..batches.seeded import CpuRandomState
from ..checkpoints.start_weights import changing_tensors
from ..protocol import TrainerView

logger = logging.get_logger(__name__)

# The factor by which accelerate shrinks the training batch, too.
SHRINK = 0.9

Outcome = TypeVar("Outcome")


class Attempts:
    """The attempts at one training; without `auto_find_batch_size` there is a single one.

    Trainer knows one batch size. Here the forget batch and the retain batch each have their own,
    and only the one that did not fit is made smaller. Afterwards the trainer's copy of the
    arguments holds the sizes that fit.
    """

    def __init__(self, trainer: TrainerView):
        self._trainer = trainer
        self._start: _Start | None = None
        self._failed_at_retain = False

    def run(self, attempt: Callable[[], Outcome]) -> Outcome:
        """Repeats an attempt, with a smaller retain batch each time, until that fits into memory.
        (accelerate repeats all of this with a smaller forget batch.)"""
        while True:
            self._failed_at_retain = False
            try:
                return attempt()
            except RuntimeError:
                if not self.shrink_retain_batch():
                    raise
            # After the except block, so that the exception no longer keeps its frames' tensors
            # alive.
            clear_device_cache(garbage_collection=True)

    def begin(self, batch_size: int) -> None:
        """Starts an attempt from the state of the first; Trainer would go on from the last one's
        weights."""
        trainer, args = self._trainer, self._trainer.args
        if not args.auto_find_batch_size:
            return
        before = args.per_device_train_batch_size
        args.per_device_train_batch_size = max(1, batch_size // max(1, args.n_gpu))
        if self._start is None:
            self._start = _Start(trainer)
            return
        self._start.restore(trainer)
        if args.per_device_train_batch_size < before:
            logger.warning(
                f"Out of memory with per_device_train_batch_size={before}: starting again with "
                f"{args.per_device_train_batch_size}."
            )

    @contextlib.contextmanager
    def at_retain_batch(self) -> Iterator[None]:
        """Within this context, running out of memory is blamed on the retain batch."""
        try:
            yield
        except Exception as error:
            self._failed_at_retain = should_reduce_batch_size(error)
            raise

    def shrink_retain_batch(self) -> bool:
        """Makes the retain batch smaller; False if the last attempt did not fail at it.

        Raises:
            MemoryError: it is a single sample already.
        """
        args = self._trainer.args
        if not args.auto_find_batch_size or not self._failed_at_retain:
            return False
        k = min(args.per_device_retain_batch_size, len(self._trainer.retain_dataset))
        if k == 1:
            raise MemoryError(
                "there is not enough memory for a single retain sample: set "
                "gradient_checkpointing=True, train an adapter (peft_config), or shorten the "
                "samples"
            )
        args.per_device_retain_batch_size = int(k * SHRINK)
        logger.warning(
            f"Out of memory with a retain batch of {k} samples: starting again with "
            f"per_device_retain_batch_size={args.per_device_retain_batch_size}. Each step is then "
            "orthogonal to fewer samples; gradient_checkpointing=True or an adapter (peft_config) "
            "may leave room for more."
        )
        return True


class _Start:
    """The weights, the optimizer's state and the random state at the start of a training, on the
    CPU."""

    def __init__(self, trainer: TrainerView):
        self._weights = {
            name: t.detach().to("cpu", copy=True) for name, t in changing_tensors(trainer.model)
        }
        self._states = {
            name: None if part is None else copy.deepcopy(part.state_dict())
            for name, part in (
                ("optimizer", trainer.optimizer),
                ("lr_scheduler", trainer.lr_scheduler),
            )
        }
        self._random = CpuRandomState()
        self._of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self, trainer: TrainerView) -> None:
        with torch.no_grad():
            for name, tensor in changing_tensors(trainer.model):
                tensor.grad = None
                tensor.copy_(self._weights[name])
        for name, state in self._states.items():
            if state is None:
                # Trainer creates it again.
                setattr(trainer, name, None)
            else:
                getattr(trainer, name).load_state_dict(copy.deepcopy(state))
        self._random.restore()
        if self._of_gpus:
            torch.cuda.set_rng_state_all(self._of_gpus)
