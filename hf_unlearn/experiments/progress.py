"""Shows the progress of a run: a line before each stage, and labels for the progress bars."""

from typing import Any

from torch.utils.data import DataLoader
from transformers import (
    ProgressCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from .recipe import Recipe

# How the names of times in the log end.
TIMES = ("_runtime", "_per_second", "_preparation_time", "_compilation_time")


def stages(recipe: Recipe) -> list[str]:
    """The stages of a run that take time, in their order."""
    options, args = recipe.options, recipe.args
    trained = [
        role
        for role, name in (("original", options.model), ("retrained", options.gold))
        if name == "train"
    ]
    return [
        *(f"training the {role} model ({options.train_steps} steps)" for role in trained),
        *(["training the shadow models"] if options.shadow_models else []),
        f"unlearning ({_length(args.max_steps, args.num_train_epochs)})",
        "measuring the unlearned model",
    ]


def _length(max_steps: int, epochs: float) -> str:
    return f"at most {max_steps} steps" if max_steps > 0 else f"at most {epochs:g} epochs"


def announce(recipe: Recipe, stage: str) -> None:
    """Prints the number and name of a stage, which may be given by its first words."""
    names = stages(recipe)
    index = next(index for index, name in enumerate(names) if name.startswith(stage))
    if recipe.args.process_index == 0:
        print(f"{index + 1}/{len(names)} {names[index]}", flush=True)


def label_bars(trainer: Trainer, label: str) -> None:
    """Puts a label before the trainer's progress bars, where it shows bars on a console."""
    callbacks = trainer.callback_handler.callbacks
    for index, callback in enumerate(callbacks):
        if type(callback) is ProgressCallback:
            callbacks[index] = _LabelledBars(label)


class _LabelledBars(ProgressCallback):
    """Trainer's bars with a label, and its lines without the times of evaluations."""

    def __init__(self, label: str):
        super().__init__()
        self.label = label

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.label)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)
        if self.prediction_bar is not None:
            self.prediction_bar.set_description("evaluating", refresh=False)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict | None = None,
        **kwargs: Any,
    ) -> None:
        shown = {name: value for name, value in logs.items() if not name.endswith(TIMES)}
        super().on_log(args, state, control, shown, **kwargs)
