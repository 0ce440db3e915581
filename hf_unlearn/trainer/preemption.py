"""SIGTERM: a checkpoint is saved after the current step, then the run ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from transformers import TrainerCallback
from transformers.utils import logging

logger = logging.get_logger(__name__)

# What a process ended by SIGTERM exits with, by the convention of shells: 128 + 15.
EXIT_CODE = 128 + signal.SIGTERM


class Preemption(TrainerCallback):
    """SIGTERM, as a machine sends it that is taken away: the training saves a checkpoint after the
    current optimizer step and stops. `asked` is set by the signal on one process, `agreed` by the
    trainer on all of them."""

    def __init__(self):
        self.asked = self.agreed = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within this context; not where somebody else listens already, or in a thread, which gets
        no signals.

        Raises:
            SystemExit: with `EXIT_CODE` at its end, if the signal came.
        """
        self.asked = self.agreed = False
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            yield
            return
        signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.asked or self.agreed:
            raise SystemExit(EXIT_CODE)

    def _ask(self, number, frame):
        self.asked = True

    def on_step_end(self, args, state, control, **kwargs):
        if self.agreed:
            logger.warning(
                f"SIGTERM: saving a checkpoint at step {state.global_step}, then exit "
                f"code {EXIT_CODE}."
            )
            control.should_save = control.should_training_stop = True
