"""`auto_find_batch_size`: attempts at a training with smaller and smaller batches, each from where
the first began."""

import contextlib
import copy
import random
from collections.abc import Iterator

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers.utils import logging

logger = logging.get_logger(__name__)

SMALLER = 0.9  # as accelerate takes it for the training batch


class Attempts:
    """Of one training; without `auto_find_batch_size` there is one attempt.

    Trainer knows one batch size. Here the forget batch and the retain batch have each their own,
    and the one that did not fit is made smaller. `args` then has the sizes of the attempt that
    fits.
    """

    def __init__(self, trainer):
        self.trainer, self._start, self._of_retain = trainer, None, False

    def begin(self, batch_size: int) -> None:
        """Takes back what an earlier attempt has changed. Trainer would go on from its weights."""
        trainer, args = self.trainer, self.trainer.args
        if not args.auto_find_batch_size:
            return
        self._of_retain, before = False, args.per_device_train_batch_size
        args.per_device_train_batch_size = max(1, batch_size // max(1, args.n_gpu))
        if self._start is None:
            self._start = _Start(trainer)
            return
        self._start.restore(trainer)
        if args.per_device_train_batch_size < before:
            logger.warning(
                f"Out of memory with per_device_train_batch_size={before}: "
                f"{args.per_device_train_batch_size} is tried, from "
                "the start."
            )

    @contextlib.contextmanager
    def at_retain_batch(self) -> Iterator[None]:
        """Within this context memory is what the retain batch takes."""
        try:
            yield
        except Exception as error:
            self._of_retain = should_reduce_batch_size(error)
            raise

    def shrink_retain_batch(self) -> bool:
        """Makes the retain batch smaller; False where the last attempt did not fail at it.

        Raises:
            MemoryError: it has a single sample.
        """
        args = self.trainer.args
        k = min(args.per_device_retain_batch_size, len(self.trainer.retain_dataset))
        if not args.auto_find_batch_size or not self._of_retain:
            return False
        if k == 1:
            raise MemoryError(
                "the memory does not suffice for a single retain sample: set "
                "gradient_checkpointing=True, train an adapter "
                "(peft_config), or shorten the samples"
            )
        args.per_device_retain_batch_size = int(k * SMALLER)
        logger.warning(
            f"Out of memory with a retain batch of {k} samples: per_device_retain_batch_size="
            f"{args.per_device_retain_batch_size} is tried, from the start. So each step is "
            "orthogonal to fewer samples; "
            "gradient_checkpointing=True or an adapter (peft_config) may leave room for more."
        )
        return True


class _Start:
    """The weights, the optimizer's state and the random numbers at the beginning of a training, on
    the CPU."""

    def __init__(self, trainer):
        self.weights = {
            name: t.detach().to("cpu", copy=True) for name, t in _changing(trainer.model)
        }
        self.states = {
            name: None
            if (part := getattr(trainer, name)) is None
            else copy.deepcopy(part.state_dict())
            for name in ("optimizer", "lr_scheduler")
        }
        self.random = torch.get_rng_state(), np.random.get_state(), random.getstate()
        self.of_device = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self, trainer) -> None:
        with torch.no_grad():
            for name, tensor in _changing(trainer.model):
                tensor.grad = None
                tensor.copy_(self.weights[name])
        for name, state in self.states.items():
            if state is None:
                setattr(trainer, name, None)  # made anew
            else:
                getattr(trainer, name).load_state_dict(copy.deepcopy(state))
        torch.set_rng_state(self.random[0])
        np.random.set_state(self.random[1])
        random.setstate(self.random[2])
        if self.of_device:
            torch.cuda.set_rng_state_all(self.of_device)


def _changing(model):
    yield from ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    yield from model.named_buffers()
