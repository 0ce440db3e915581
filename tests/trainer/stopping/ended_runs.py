"""Tiny runs that end in different ways."""

from pathlib import Path

from huggingface_hub import ModelCard

from tests.support.callbacks import CallAtStep
from tests.support.tiny import FORGET, RETAIN, make_trainer, tiny_whisper

SPLITS = {"forget": FORGET[:3], "test": RETAIN[:3]}


# The first evaluation is the best one.
EARLY = {
    "max_steps": 9,
    "learning_rate": 0.05,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_test_loss",
    "greater_is_better": False,
    "method": "gradient_ascent",
}


# Holds after the first steps, but not before them.
TARGET = {"stop_when": "forget_loss >= 5", "learning_rate": 0.05, "method": "gradient_ascent"}


def trainer_of(folder, callbacks=(), forget=FORGET, **options):
    model = tiny_whisper(encoder_layers=1, decoder_layers=1)
    arguments = {"eval_dataset": SPLITS, "callbacks": list(callbacks)}
    return make_trainer(
        model, folder, forget=forget, optimizer=False, arguments=arguments, **options
    )


def card_of(folder) -> str:
    return ModelCard.load(Path(folder) / "README.md").text


class MyOwnRule(CallAtStep):
    def __init__(self, step):
        super().__init__(step, lambda control: setattr(control, "should_training_stop", True))
