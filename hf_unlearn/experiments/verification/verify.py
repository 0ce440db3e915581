"""Verifies a model by its ledger: repeats the last request, and compares the weights step by step
with the digests that the run has recorded."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...privacy.carried_salt import salts_in
from ...report.environment import environment
from ...report.file_names import LEDGER
from ...report.ledger import Entry, read_ledger
from ...report.weights import weights_digest
from ...trainer import step_digests
from ..models.training import get_model
from ..recipe import Recipe
from ..requests.entry import data_digests, package_versions
from ..running.measurements import measure
from ..running.run import save_model, train_to_forget, unlearning_trainer
from .repeated_recipe import repeated_recipe

# The exit code where the weights do not follow.
DIFFERENT = 3


def verify_by_repetition(
    folder: Path, config: Path | None = None, *, steps: int | None = None
) -> bool:
    """Repeats the last request of a model, prints what was found, and returns whether the published
    weights follow from its ledger.

    Args:
        folder: output_dir of a run.
        config: YAML file whose values replace those in results.json, where data or models have
            moved.
        steps: repeat only the steps up to this one; by default all of them, and compare the final
            weights, too.

    Raises:
        ValueError: the run cannot be repeated here: there is no ledger, or versions, data, the
            original model or the number of processes differ.
    """
    entry = _last_entry(folder)
    number = entry["request"]
    if weights_digest(folder) != entry["weights_after"]:
        print(f"NOT VERIFIED: the weights in {folder} are not those that request {number} left.")
        return False
    recorded = _compared_steps(entry, steps)
    _refuse_other_versions(entry)
    # Before the data is read, which takes long.
    salt = _salt_of(entry, folder)
    with tempfile.TemporaryDirectory() as output:
        recipe = repeated_recipe(folder, config, output)
        _refuse_other_start(entry, recipe)
        _refuse_other_data(entry, recipe, salt)
        last = max(map(int, recorded)) if steps is not None else None
        print(
            f"repeating request {number}{'' if last is None else f' up to step {last}'}", flush=True
        )
        digests = _repeat(recipe, last)
    wanted = {**recorded, **({} if steps is not None else {"the end": entry["weights_after"]})}
    different = [name for name in wanted if digests.get(name) != wanted[name]]
    print(_verdict(entry, list(wanted), different))
    return not different


def _last_entry(folder: Path) -> Entry:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: give the output_dir of a run")
    entries = read_ledger(folder / LEDGER)
    if not entries:
        raise ValueError(
            f"there is no {folder / LEDGER}: give the output_dir of a run that has one"
        )
    entry = entries[-1]
    if "merged_from" in entry:
        raise ValueError(
            f"the adapter of request {entry['request']} was merged after the run: verify the run's "
            "own output_dir"
        )
    if "data" not in entry:
        raise ValueError(
            f"request {entry['request']} was recorded from results.json, because its run left no "
            "ledger, so it cannot be compared: repeat the request, and verify that run"
        )
    return entry


def _compared_steps(entry: Entry, steps: int | None) -> dict[str, str]:
    """{step: digest} of those that are compared, up to a step if one is given.

    Raises:
        ValueError: no step up to that one was recorded.
    """
    recorded = entry["steps"]
    if steps is None:
        return recorded
    recorded_steps = sorted(int(step) for step in recorded if int(step))
    if not recorded_steps:
        raise ValueError(
            "the ledger has no digests of steps (the run had digest_steps: 0, or used "
            "DeepSpeed): leave --steps out to compare only the final weights"
        )
    if steps < recorded_steps[0]:
        raise ValueError(
            f"steps is {steps}, but the ledger has digests only of the steps "
            f"{', '.join(map(str, recorded_steps))}: give one of these, or leave --steps out"
        )
    return {step: digest for step, digest in recorded.items() if int(step) <= steps}


# ---- what makes a comparison impossible ----------------------------------------------------------


def _refuse_other_versions(entry: Entry) -> None:
    here = package_versions(environment())
    other = {
        name: version for name, version in entry["versions"].items() if here.get(name) != version
    }
    if other:
        differences = ", ".join(
            f"{name} {version}, not {here.get(name)}" for name, version in other.items()
        )
        raise ValueError(f"the run had other versions; install them to repeat it: {differences}")


def _refuse_other_start(entry: Entry, recipe: Recipe) -> None:
    start = recipe.options.model
    if entry["processes"] != recipe.args.world_size:
        raise ValueError(
            f"the run had {entry['processes']} processes, and this has {recipe.args.world_size}: "
            "start as many, as in torchrun --nproc_per_node 2 -m hf_unlearn.cli verify"
        )
    if weights_digest(start) != entry["weights_before"]:
        raise ValueError(
            f"{start} has other weights than those that request {entry['request']} started from: "
            "name the right model as `model:` in a configuration"
        )


def _salt_of(entry: Entry, folder: Path) -> str:
    salt = salts_in([folder]).get(entry["salt"])
    if salt is None:
        raise ValueError(
            f"{folder} lacks the file .salt of the run, without which the data cannot be compared: "
            "verify the run's own output_dir, or use --weights_only"
        )
    return salt


def _refuse_other_data(entry: Entry, recipe: Recipe, salt: str) -> None:
    digests = data_digests(recipe.splits, salt)
    other = [name for name, digest in entry["data"].items() if digests.get(name) != digest]
    if other:
        raise ValueError(
            f"the data is not that of request {entry['request']} ({', '.join(other)}): give the "
            "run's own data"
        )


# ---- the repetition ------------------------------------------------------------------------------


class _StopAt(TrainerCallback):
    """Ends the training after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= self.step:
            control.should_training_stop = True


def _repeat(recipe: Recipe, last: int | None) -> dict[str, str | None]:
    """{step: digest} of a repetition up to step `last`; without it, of the whole run and of "the
    end"."""
    _, original = get_model(recipe, "original", recipe.options.model)
    trainer = unlearning_trainer(recipe, original)
    # The run did so before its first step, and data loaders draw random numbers.
    measure(recipe, trainer, None)
    if last is not None:
        trainer.add_callback(_StopAt(last))
    train_to_forget(recipe, trainer)
    digests: dict[str, str | None] = dict(step_digests(trainer.state))
    if last is None:
        save_model(recipe, trainer)
        digests["the end"] = weights_digest(recipe.args.output_dir)
    return digests


def _verdict(entry: Entry, compared: Sequence[str], different: Sequence[str]) -> str:
    if not different:
        return (
            f"VERIFIED: the weights of request {entry['request']} follow from its data, settings "
            f"and seed (equal at step {', '.join(compared)})."
        )
    here, machine = environment(), entry["machine"]
    other = [
        f"{name} {value}, not {here.get(name)}"
        for name, value in machine.items()
        if here.get(name) != value
    ]
    why = (
        " This is weak evidence, because another machine may round differently: "
        f"{'; '.join(other)}."
        if other
        else ""
    )
    return (
        f"NOT VERIFIED: the repeated weights of request {entry['request']} first differ at step "
        f"{different[0]}.{why}"
    )
