"""Stopping rules that a user can state: "stop when the forget WER reaches 90, abort when the test
WER is over 30"."""

import itertools
import operator
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from safetensors.torch import load_file, save_file
from torch.utils.data import Subset
from transformers import TrainerCallback
from transformers.utils import logging

from ..files import written_whole
from ..metrics.scales import ScaleCheck, scale_of
from ..per_sample.shards import fill, made_whole, own_parameters

logger = logging.get_logger(__name__)

BEST = "best_checked.safetensors"
OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Rule:
    """A condition on one metric of one split, such as `forget_wer >= 90`, or `forget_accuracy <=
    test_accuracy`."""

    metric: str
    comparison: str
    value: float | str  # a number, or the name of another metric

    @classmethod
    def parse(cls, text: str) -> "Rule":
        match = re.fullmatch(r"\s*(\w+)\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?|[A-Za-z]\w*)\s*", text)
        if not match:
            raise ValueError(
                f"cannot read the rule {text!r}: write <split>_<metric> >= <number>, as in "
                "'forget_wer >= 90', or another "
                "<split>_<metric> in place of the number"
            )
        return cls(match[1], match[2], match[3] if match[3][0].isalpha() else float(match[3]))

    @property
    def metrics(self) -> list[str]:
        return [self.metric, self.value] if isinstance(self.value, str) else [self.metric]

    def margin(self, metrics: dict) -> float:
        """By how much the metric lies above the value."""
        return metrics[self.metric] - (
            metrics[self.value] if isinstance(self.value, str) else self.value
        )

    def holds(self, metrics: dict) -> bool:
        return OPERATORS[self.comparison](self.margin(metrics), 0)

    def better(self, value: float, than: float) -> bool:
        """Whether one value is further in the direction of the rule than another."""
        return value > than if self.comparison.startswith(">") else value < than

    def splits(self, names) -> set[str]:
        """The splits that the rule's metrics belong to."""
        return {self._split(metric, names) for metric in self.metrics}

    def _split(self, metric: str, names) -> str:
        fitting = [name for name in names if metric.startswith(f"{name}_")]
        if not fitting:
            raise ValueError(
                f"the rule on {metric!r} names no split of eval_dataset: those are "
                f"{', '.join(names) or 'none'}"
            )
        return max(fitting, key=len)

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:g}"
        return f"{self.metric} {self.comparison} {value}"


class StoppingRules(TrainerCallback):
    """Checks `stop_when` and `abort_when` every `check_steps` steps on a bounded sample of the
    splits that they name.

    While `abort_when` does not hold, the model that has come furthest towards `stop_when` is kept
    in `<output_dir>/best_checked.safetensors`; an abort restores it (the original model, if no
    check has passed). Checks are logged as `check_<split>_<metric>`.
    """

    def __init__(self, trainer):
        args, splits = trainer.args, trainer.eval_dataset
        if not isinstance(splits, dict):
            raise ValueError(
                "stop_when and abort_when need eval_dataset to be a dict of splits, such as "
                "{'forget': ...}"
            )
        self.trainer = trainer
        self.stop = Rule.parse(args.stop_when) if args.stop_when else None
        self.abort = Rule.parse(args.abort_when) if args.abort_when else None
        names = {name for rule in (self.stop, self.abort) if rule for name in rule.splits(splits)}
        for rule in (self.stop, self.abort):
            if rule:
                _check_metrics(rule, splits, _known_metrics(trainer))
        self.splits = {
            name: _bounded(data, args.check_samples)
            for name, data in splits.items()
            if name in names
        }
        self._scales = ScaleCheck(
            filter(None, (self.stop, self.abort)), scale_of(trainer.compute_metrics)
        )
        self.best_step, self.best_value = 0, None
        self.report = {"rule": args.stop_when, "abort_rule": args.abort_when}

    @property
    def _path(self) -> Path:
        return Path(self.trainer.args.output_dir) / BEST

    def on_train_begin(self, args, state, control, **kwargs):
        """Comes to where the run was that is resumed here, from its checks and its checkpoint's
        copy of the best model."""
        self.best_step, self.best_value = 0, None
        self.report = {"rule": args.stop_when, "abort_rule": args.abort_when}
        checked: dict[int, dict] = {}
        for row in state.log_history:
            checked.setdefault(row["step"], {}).update(_checked(row))
        for step, metrics in checked.items():
            self._scales.look(metrics)
            self._weigh(metrics, step)
        if checked.get(state.global_step):  # the run may have been over already
            self._decide(checked[state.global_step], state.global_step, control)
        if not self.trainer.resumed_from and self.trainer.is_world_process_zero():
            self._path.unlink(missing_ok=True)  # of an earlier run
        saved = Path(self.trainer.resumed_from or "") / BEST
        if self.trainer.resumed_from and saved.exists():
            self._copy(saved, self._path)
        elif self.abort:
            aborted = self.report.get("reason") == "aborted"
            if self.trainer.resumed_from and self.best_step < state.global_step and not aborted:
                logger.warning(
                    f"{saved} is not there (it is never pushed to the Hub), and with it the best "
                    "checked model, of step "
                    f"{self.best_step}: if the run is aborted, it goes back to the model of step "
                    f"{state.global_step}, or of "
                    "a better check after it."
                )
                self.best_step, self.best_value = state.global_step, None
            self._keep()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % args.check_steps and state.global_step != state.max_steps:
            return
        # of this step: logging the check takes both back
        asked = control.should_log, control.should_evaluate
        metrics = _checked(self.trainer.evaluate(self.splits, metric_key_prefix="check"))
        control.should_log, control.should_evaluate = asked
        self._require(metrics)
        self._scales.look(metrics)
        if self._weigh(metrics, state.global_step) and self.abort:
            self._keep()
        self._decide(metrics, state.global_step, control)
        if self.report.get("reason") == "aborted":
            self._restore()
            self.trainer.record.weights_step = self.best_step
            logger.warning(
                f"Aborted at step {state.global_step}, since {self.abort} "
                f"({self.report['value']:.4g}). "
                f"The model of step {self.best_step} is restored."
            )

    def _decide(self, metrics: dict, step: int, control) -> None:
        """Whether the training is over, in the report too."""
        if self.abort and self.abort.holds(metrics):
            self.report |= {
                "reason": "aborted",
                "value": metrics[self.abort.metric],
                "restored_step": self.best_step,
            }
            control.should_training_stop = True
        elif self.stop:
            self.report["value"] = metrics[self.stop.metric]
            if self.stop.holds(metrics):
                self.report["reason"] = "target reached"
                control.should_training_stop = True

    def save(self, checkpoint: Path) -> None:
        """Puts the best model so far into a checkpoint: later ones may be better, but not to a run
        resumed from it."""
        if self._path.exists():
            self._copy(self._path, checkpoint / BEST)

    def _copy(self, path: Path, target: Path) -> None:
        if self.trainer.is_world_process_zero():
            with written_whole(target) as partial:
                shutil.copyfile(path, partial)

    def _require(self, metrics) -> None:
        for rule in (self.stop, self.abort):
            if rule and not set(rule.metrics) <= set(metrics):
                raise ValueError(
                    f"the rule {str(rule)!r} names a metric that evaluation does not give: "
                    f"{', '.join(metrics)}"
                )

    def _weigh(self, metrics: dict, step: int) -> bool:
        """Whether the model of this step is the best so far (and then notes it)."""
        rule = self.stop or self.abort
        if not {*rule.metrics, *(self.abort.metrics if self.abort else ())} <= set(metrics):
            return False
        if self.abort and self.abort.holds(metrics):
            return False
        value = rule.margin(metrics)
        if (
            self.stop
            and self.best_value is not None
            and not self.stop.better(value, self.best_value)
        ):
            return False
        self.best_step, self.best_value = step, value
        return True

    def _keep(self) -> None:
        tensors = {name: made_whole(p) for name, p in self._trained()}
        if self.trainer.is_world_process_zero():
            with written_whole(self._path) as partial:
                save_file(
                    {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, partial
                )

    def _restore(self) -> None:
        self.trainer.accelerator.wait_for_everyone()
        tensors = load_file(self._path)
        for name, p in self._trained():
            fill(p, tensors[name])

    def _trained(self):
        own_parameters(self.trainer.model)
        return [(name, p) for name, p in self.trainer.model.named_parameters() if p.requires_grad]


def _checked(row: dict) -> dict:
    return {
        key.removeprefix("check_"): value for key, value in row.items() if key.startswith("check_")
    }


def _known_metrics(trainer) -> set[str] | None:
    """What evaluation will give of a split, as far as that can be known before it: None where it
    cannot."""
    if trainer.compute_metrics is None and type(trainer).evaluation_loop.__module__.startswith(
        __package__
    ):
        return {"loss"}
    names = getattr(trainer.compute_metrics, "metric_names", None)
    return None if names is None else {"loss", *names}


def _check_metrics(rule: Rule, splits, known: set[str] | None) -> None:
    for name in rule.metrics:
        split = rule._split(name, splits)
        if known is not None and name.removeprefix(f"{split}_") not in known:
            given = ", ".join(f"{split}_{metric}" for metric in sorted(known))
            raise ValueError(
                f"the rule {str(rule)!r} names {name!r}, but evaluation will give {given}"
            )
        if hasattr(splits[split], "__len__") and len(splits[split]) == 0:
            raise ValueError(
                f"the rule {str(rule)!r} is on the split {split!r} of eval_dataset, which is empty"
            )


def _bounded(dataset, samples: int):
    """At most so many samples: spread evenly over the dataset, or the first ones of a stream."""
    if not hasattr(dataset, "__len__"):
        return list(itertools.islice(dataset, samples))
    if len(dataset) <= samples:
        return dataset
    chosen = np.linspace(0, len(dataset) - 1, samples).round().astype(int).tolist()
    return (
        dataset.select(chosen) if isinstance(dataset, datasets.Dataset) else Subset(dataset, chosen)
    )
