"""The settings of an audit, and the options of `hf-unlearn audit`. The command line reads them
without loading torch."""

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

# The exit code where the rule of --fail_when holds.
FAILED = 3
# The splits that doors can judge by. No model has seen `forget_test`, whose samples are like the
# forgotten ones.
JUDGED = ("forget_test", "forget")


@dataclass
class AuditSettings:
    """The settings of an audit.

    They are the same for all models and are never tuned on an audit's results.

    Raises:
        ValueError: one is out of its range.
    """

    max_samples: int = field(
        default=128,
        metadata={"help": "At most this many samples of a split, balanced over speakers."},
    )
    judged_split: str | None = field(
        default=None,
        metadata={
            "help": "forget_test or forget: the samples by which doors judge. Default: forget_test "
            "if the original clearly knows more of it than the retrained model, else the one on "
            "which the two differ more."
        },
    )
    num_beams: int = field(default=5, metadata={"help": "Beams of the door `beams`."})
    relearn_samples: int = field(
        default=16, metadata={"help": "Relearning: number of forgotten samples to train on."}
    )
    relearn_steps: int = field(
        default=20, metadata={"help": "Relearning and benign fine-tuning: optimizer steps."}
    )
    relearn_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Relearning and benign fine-tuning: learning rate of AdamW. Default: a "
            "tenth of the run's own if it used Adam(W); otherwise the one at which the original "
            "was fine-tuned, or a tenth of it if the original was trained from the start."
        },
    )

    def __post_init__(self) -> None:
        for name in ("max_samples", "num_beams", "relearn_samples", "relearn_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.relearn_learning_rate is not None and not self.relearn_learning_rate > 0:
            raise ValueError(
                f"relearn_learning_rate is {self.relearn_learning_rate}, but must be above 0"
            )
        if self.judged_split not in (None, *JUDGED):
            raise ValueError(
                f"judged_split is {self.judged_split!r}, but must be {' or '.join(JUDGED)}"
            )


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, help="output_dir of a run, or a model's folder")
    command.add_argument(
        "config",
        nargs="?",
        type=Path,
        help="the run's configuration (YAML); needed for a model without results.json, or where "
        "data or models have moved",
    )
    command.add_argument(
        "--doors", nargs="+", default=[], metavar="DOOR", help="only these doors; default: all"
    )
    command.add_argument(
        "--fail_when",
        metavar="RULE",
        help=f"exit with code {FAILED} if this rule holds, such as 'worst_gap > 5'. A rule may use "
        "worst_gap, surest_gap (the largest lower end of an interval), conspicuous_gap, "
        "least_forgotten, <door>_gap or <door>_forgotten, in points",
    )
    for option in dataclasses.fields(AuditSettings):
        kind = next((kind for kind in (float, str) if kind.__name__ in str(option.type)), int)
        text = option.metadata["help"]
        if option.default is not None:
            text = f"{text} Default: {option.default}."
        command.add_argument(f"--{option.name}", type=kind, default=option.default, help=text)
