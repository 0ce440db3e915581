"""Checks the stopping rules during the training, stops it, and keeps and restores the best model.
`rule` defines a single rule."""

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Subset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ...files import written_whole
from ...metrics.described_metrics import description_of
from ...metrics.scales import ScaleCheck
from ...per_sample.shards import copy_into, gather_to_main, own_parameters
from ...report.file_names import BEST
from ..batches.seeded import random_state_kept
from ..batches.training_data import length_or_none, spread
from ..checks.evaluation_checks import known_metrics
from ..protocol import RunView
from .rule import ORIGINAL, Rule, metric_in, splits_of, with_worst
from .run_record import RunRecord

logger = logging.get_logger(__name__)

NOTHING_UNLEARNED = ": nothing was unlearned, this is the original model"


class StoppingRules(TrainerCallback):
    """Checks `stop_when` and `abort_when` before the first step and every `check_steps` steps, on
    at most `check_samples` samples of the splits that they name. A rule that holds before the first
    step is an error.

    While `abort_when` does not hold, the model that is furthest towards `stop_when` is kept in
    `<output_dir>/best_checked.safetensors` until the training ends. An abort restores it, or the
    original model if no check was better. Checks are logged as `check_<split>_<metric>`.

    Attributes:
        stop, abort: the rules. The word `original` is replaced by a number once the original model
            has been checked.
        splits: the samples that a check evaluates, by split.
        best_step: the step of the best model checked, 0 for the original model.
        report: the rules and, at the end, the reason, the value that decided and the restored step.

    Raises:
        ValueError: eval_dataset is not a dict, or a rule can never hold.
    """

    def __init__(self, trainer: RunView, record: RunRecord):
        args, splits = trainer.args, trainer.eval_dataset
        if not isinstance(splits, dict):
            raise ValueError(
                "stop_when and abort_when need eval_dataset to be a dict of splits, such as "
                "{'forget': ...}"
            )
        self._trainer, self._record = trainer, record
        self._reset()
        for rule in self._rules:
            if rule.value == ORIGINAL and trainer.method.one_shot:
                raise ValueError(
                    f"the rule {str(rule)!r} needs a check of the original model, but "
                    f"method={args.method!r} changes the model before the first check: write a "
                    "number in place of 'original'"
                )
        named = {name for rule in self._rules for name in rule.splits(splits)}
        for rule in self._rules:
            _check_metrics(rule, splits, known_metrics(trainer))
        self.splits = {
            name: _bounded(data, args.check_samples)
            for name, data in splits.items()
            if name in named
        }
        self._scales = ScaleCheck(self._rules, description_of(trainer.compute_metrics).scale)

    def _reset(self) -> None:
        """The state before a training."""
        args = self._trainer.args
        self.best_step, self._best_margin = 0, None
        self.stop = Rule.parse(args.stop_when) if args.stop_when else None
        self.abort = Rule.parse(args.abort_when) if args.abort_when else None
        self.report: dict[str, Any] = {"rule": args.stop_when, "abort_rule": args.abort_when}

    @property
    def _rules(self) -> list[Rule]:
        return [rule for rule in (self.stop, self.abort) if rule]

    def _fill_in_original(self, metrics: Mapping[str, float]) -> None:
        """Puts the values of the check before the first step into the rules that compare with the
        original model."""
        for name, key in (("stop", "rule"), ("abort", "abort_rule")):
            rule = getattr(self, name)
            if rule and rule.value == ORIGINAL:
                filled = rule.with_value(metrics[rule.metric])
                setattr(self, name, filled)
                self.report[key] = f"{rule} ({filled.value:.4g})"

    @property
    def _best_file(self) -> Path:
        return Path(self._trainer.args.output_dir) / BEST

    # ---- checks ----------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restores the state at the checkpoint that is resumed from, from the logged checks and the
        checkpoint's copy of the best model."""
        self._reset()
        checked: dict[int, dict] = {}
        for row in state.log_history:
            # Other callbacks log rows, too, such as the digests of the weights.
            if metrics := _check_metrics_in(row):
                checked.setdefault(row["step"], {}).update(metrics)
        checked = {step: with_worst(logged, self._rules) for step, logged in checked.items()}
        if 0 in checked:
            self._fill_in_original(checked[0])
        for step, metrics in checked.items():
            self._scales.look(metrics)
            self._note_if_best(metrics, step)
        # the run may have ended at this step
        if state.global_step in checked:
            self._decide(checked[state.global_step], control)
        self._restore_best_file(state.global_step)
        # one-shot methods have already changed the model
        if not self._record.resumed_from and not self._trainer.method.one_shot:
            self._check_original()

    def _check_original(self) -> None:
        """Checks the model before the first step.

        Raises:
            ValueError: a rule holds already.
        """
        # The steps draw the same random numbers as they would without this check.
        with random_state_kept(self._trainer.args.device):
            metrics = self._check()
        self._fill_in_original(metrics)
        self._note_if_best(metrics, step=0)
        for name, rule, advice in (
            ("abort_when", self.abort, "set another bound, or train the model first"),
            ("stop_when", self.stop, "there is nothing to forget; set another target"),
        ):
            if rule and rule.holds(metrics):
                raise ValueError(
                    f"{name} {rule} already holds before the first step "
                    f"({metrics[rule.metric]:.4g}): {advice}"
                )

    def _restore_best_file(self, global_step: int) -> None:
        """Puts the best model checked so far into output_dir when a training begins."""
        resumed_from = self._record.resumed_from
        if not resumed_from and self._trainer.is_world_process_zero():
            # An existing file belongs to an earlier run.
            self._best_file.unlink(missing_ok=True)
        saved = Path(resumed_from or "") / BEST
        if resumed_from and saved.exists():
            self._copy(saved, self._best_file)
        elif self.abort:
            aborted = self.report.get("reason") == "aborted"
            if resumed_from and self.best_step < global_step and not aborted:
                logger.warning(
                    f"{saved} is missing (it is never pushed to the Hub), and with it the best "
                    f"checked model, of step {self.best_step}. If the run is aborted, it goes back "
                    f"to the model of step {global_step}, or to a better one checked after it."
                )
                self.best_step, self._best_margin = global_step, None
            self._save_best()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        steps = self._trainer.args.check_steps
        if state.global_step % steps and state.global_step != state.max_steps:
            return
        # logging the check resets both requests of this step
        requested = control.should_log, control.should_evaluate
        metrics = self._check()
        control.should_log, control.should_evaluate = requested
        if self._note_if_best(metrics, state.global_step) and self.abort:
            self._save_best()
        self._decide(metrics, control)
        if self.report.get("reason") == "aborted":
            why = f"because {self.abort} ({self.report['value']:.4g})"
            if self._trainer.method.one_shot:
                # It changed the model before the first check.
                logger.warning(f"Aborted {why}. There is no earlier model to restore.")
                return
            self._restore_best()
            self._record.weights_step = self.best_step
            logger.warning(
                f"Aborted at step {state.global_step} {why}. Restored the model of step "
                f"{self.best_step}{'' if self.best_step else NOTHING_UNLEARNED}."
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Removes the copy of the best model, of which checkpoints have their own."""
        # the other processes may still read it
        self._trainer.accelerator.wait_for_everyone()
        if self._trainer.is_world_process_zero():
            self._best_file.unlink(missing_ok=True)

    def _check(self) -> dict[str, float]:
        """Evaluates and logs the metrics of a check, by <split>_<metric>."""
        measured = _check_metrics_in(self._trainer.evaluate(self.splits, metric_key_prefix="check"))
        metrics = with_worst(measured, self._rules)
        self._require(metrics)
        self._scales.look(metrics)
        return metrics

    def _require(self, metrics: dict[str, float]) -> None:
        for rule in self._rules:
            if not set(rule.metrics) <= set(metrics):
                raise ValueError(
                    f"the rule {str(rule)!r} names a metric that evaluation does not give: name "
                    f"one of {', '.join(metrics)}"
                )

    def _note_if_best(self, metrics: dict[str, float], step: int) -> bool:
        """Whether the model of this step is the best so far; if so, notes it."""
        rule = self.stop or self.abort
        needed = {*rule.metrics, *(self.abort.metrics if self.abort else ())}
        if not needed <= set(metrics):
            return False
        if self.abort and self.abort.holds(metrics):
            return False
        margin = rule.margin(metrics)
        if self.stop and self._best_margin is not None:
            if not self.stop.better(margin, than=self._best_margin):
                return False
        self.best_step, self._best_margin = step, margin
        return True

    def _decide(self, metrics: dict[str, float], control: TrainerControl) -> None:
        """Stops the training if a rule holds, and reports it."""
        if self.abort and self.abort.holds(metrics):
            self.report |= {"reason": "aborted", "value": metrics[self.abort.metric]}
            if not self._trainer.method.one_shot:
                self.report["restored_step"] = self.best_step
            control.should_training_stop = True
        elif self.stop:
            self.report["value"] = metrics[self.stop.metric]
            if self.stop.holds(metrics):
                self.report["reason"] = "target reached"
                control.should_training_stop = True

    # ---- the best model --------------------------------------------------------------------------

    def save(self, checkpoint: Path) -> None:
        """Copies the best model so far into a checkpoint. A run resumed from it must not find a
        later one."""
        if self._best_file.exists():
            self._copy(self._best_file, checkpoint / BEST)

    def _copy(self, path: Path, target: Path) -> None:
        if self._trainer.is_world_process_zero():
            with written_whole(target) as partial:
                shutil.copyfile(path, partial)

    def _save_best(self) -> None:
        tensors = {name: gather_to_main(p) for name, p in self._trained()}
        if self._trainer.is_world_process_zero():
            tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            with written_whole(self._best_file) as partial:
                save_file(tensors, partial)

    def _restore_best(self) -> None:
        self._trainer.accelerator.wait_for_everyone()
        tensors = load_file(self._best_file)
        for name, p in self._trained():
            copy_into(p, tensors[name])

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        own_parameters(self._trainer.model)
        return [(name, p) for name, p in self._trainer.model.named_parameters() if p.requires_grad]


def _check_metrics_in(row: dict) -> dict[str, float]:
    """The metrics of a check in a log entry, by <split>_<metric>."""
    return {
        key.removeprefix("check_"): value for key, value in row.items() if key.startswith("check_")
    }


def _check_metrics(rule: Rule, splits: dict[str, Any], metrics: set[str] | None) -> None:
    """Raises ValueError if a rule can never be checked: its metric will not be given, or its split
    is empty."""
    pairs = [(name, split) for name in rule.metrics for split in splits_of(name, list(splits))]
    for name, split in pairs:
        if metrics is not None and metric_in(name, split) not in metrics:
            choices = ", ".join(f"{split}_{metric}" for metric in sorted(metrics))
            more = ": pass compute_metrics, such as asr_metrics(processor)"
            raise ValueError(
                f"the rule {str(rule)!r} names {name!r}, but evaluation will give {choices}"
                f"{more if metrics == {'loss'} else ''}"
            )
        if length_or_none(splits[split]) == 0:
            raise ValueError(
                f"the rule {str(rule)!r} is on the split {split!r} of eval_dataset, which is "
                "empty: give it samples, or name another split"
            )


def _bounded(dataset: Any, samples: int) -> Any:
    """At most `samples` samples, spread evenly over the dataset; the first ones of a stream."""
    if length_or_none(dataset) is None:
        return list(itertools.islice(dataset, samples))
    if len(dataset) <= samples:
        return dataset
    indices = spread(len(dataset), samples)
    if isinstance(dataset, datasets.Dataset):
        return dataset.select(indices)
    return Subset(dataset, indices)
