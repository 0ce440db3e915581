"""Trainer callbacks that several test files use."""

from collections.abc import Callable

from transformers import TrainerCallback, TrainerControl


class CallAtStep(TrainerCallback):
    """Calls a function with Trainer's control at the end of one step."""

    def __init__(self, step: int, action: Callable[[TrainerControl], object]):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action(control)


def interrupt(control: TrainerControl) -> None:
    """An action that ends a run as Ctrl-C would."""
    raise KeyboardInterrupt
