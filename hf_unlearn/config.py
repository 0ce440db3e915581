"""UnlearnConfig: Seq2SeqTrainingArguments and what unlearning needs beside them."""

from dataclasses import dataclass, field

from transformers import Seq2SeqTrainingArguments


@dataclass
class UnlearnConfig(Seq2SeqTrainingArguments):
    """Arguments of `UnlearnTrainer`. Every field of `Seq2SeqTrainingArguments` keeps its meaning.

    `per_device_train_batch_size` counts forget samples per micro-batch; `gradient_accumulation_steps`, `max_steps` and
    epochs count over the forget set.
    """

    method: str = field(
        default="orthograd",
        metadata={
            "help": "orthograd, gradient_ascent, gradient_difference or finetune (in Python: or a Method instance)"
        },
    )
    alpha: float = field(
        default=0.5, metadata={"help": "Weight of the retain gradient against the forget gradient, in [0, 1)."}
    )
    granularity: str = field(
        default="parameter",
        metadata={
            "help": "What orthograd projects in: each 'parameter' tensor, or the whole 'model' at once.",
            "choices": ["parameter", "model"],
        },
    )
    per_device_retain_batch_size: int = field(
        default=16, metadata={"help": "Retain samples k per optimizer step and process."}
    )
    freeze_batch_norm: bool = field(
        default=True,
        metadata={
            "help": "Batch normalisation keeps its running statistics, so that samples do not interact. False: it works "
            "as in training (as published methods do), for methods that need no per-sample gradients."
        },
    )
    stop_when: str | None = field(
        default=None,
        metadata={
            "help": "Stop when this holds at a check, e.g. 'forget_wer >= 90' (<split>_<metric> of eval_dataset)."
        },
    )
    abort_when: str | None = field(
        default=None,
        metadata={
            "help": "Abort when this holds at a check, e.g. 'test_wer > 30', and restore the best checked model."
        },
    )
    check_steps: int = field(
        default=10, metadata={"help": "Optimizer steps between two checks of the stopping rules."}
    )
    check_samples: int = field(default=64, metadata={"help": "Samples of each split that a check evaluates at most."})
    logging_steps: float = field(
        default=1, metadata={"help": "Optimizer steps between two log entries (a run of unlearning is short)."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("per_device_retain_batch_size", "check_steps", "check_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}, but must be in [0, 1): at 1 nothing would be forgotten")

    def to_dict(self) -> dict:
        return {**super().to_dict(), "method": str(self.method)}
