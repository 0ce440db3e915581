"""Finds out which callback stopped the training."""

import copy
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler

from ...config import UnlearnConfig


class WatchedCallbacks(CallbackHandler):
    """Trainer's callback handler, which also remembers which callback stopped the training.

    Attributes:
        stopped_by: the first callback of this training that asked for a stop; None if none did.
    """

    def __init__(self, handler: CallbackHandler):
        self.__dict__.update(vars(handler))
        self.stopped_by: TrainerCallback | None = None

    def call_event(
        self,
        event: str,
        args: UnlearnConfig,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
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
