"""Handles SIGTERM: the training saves a checkpoint after the current step and stops."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

logger = logging.get_logger(__name__)

# The exit code of a process ended by SIGTERM, by the shells' convention: 128 + 15.
EXIT_CODE = 128 + signal.SIGTERM


class Preemption(TrainerCallback):
    """Ends the training when the machine is about to be taken away, which SIGTERM announces.

    Attributes:
        received: whether this process received the signal.
        stop_agreed: whether any process did; set by the trainer.
    """

    def __init__(self) -> None:
        self.received = self.stop_agreed = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handles SIGTERM within this context, unless another handler is installed or this is not
        the main thread, the only one that receives signals.

        Raises:
            SystemExit: with `EXIT_CODE`, at the end of the context, if the signal came.
        """
        self.received = self.stop_agreed = False
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            yield
            return
        signal.signal(signal.SIGTERM, self._receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.received or self.stop_agreed:
            raise SystemExit(EXIT_CODE)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stop_agreed:
            logger.warning(
                f"SIGTERM: saving a checkpoint at step {state.global_step}, then exiting with "
                f"code {EXIT_CODE}."
            )
            control.should_save = control.should_training_stop = True
