"""What a run leaves in its output folder besides the model: results.json, plot, card, report."""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from ...hub.metadata import local_among
from ...hub.model_card import write_card
from ...metrics.described_metrics import description_of
from ...privacy.redaction import hide_tokens, salt_of
from ...report.best_effort import warn_if_not_written
from ...report.environment import emissions, environment
from ...report.file_names import CARD, PLOT, REPORT, RESULTS
from ...report.html_page import Report
from ...report.phases import phases_line
from ...report.plots import plot_history
from ...report.result_tables import further_tables, results_table
from ...report.results import Results
from ...report.tasks import task_of
from ...trainer import UnlearnTrainer
from ..catalogue import recipes_root
from ..history.from_results import as_results
from ..recipe import Recipe
from .measurements import Measurement


def collect_results(
    recipe: Recipe,
    trainer: UnlearnTrainer,
    measured: dict[str, Measurement | None],
    names: dict[str, str],
    base: str | None,
) -> Results:
    """The content of results.json.

    Args:
        measured: the numbers of "original", "unlearned" and "retrained"; None for a missing model.
        names: folder or Hub id of the "original" and the "retrained" model.
        base: the model that the original one was fine-tuned from, for the card.
    """
    args = recipe.args
    splits = {model: measurement and measurement.splits for model, measurement in measured.items()}
    metrics = description_of(trainer.compute_metrics)
    return Results(
        task=recipe.task,
        scale=metrics.scale,
        config={
            "recipe": vars(recipe.options),
            "data": vars(recipe.data),
            "trainer": trainer.args.to_dict(),
            "processes": args.world_size,
            "models": names,
        },
        method_settings=trainer.method_settings,
        data=recipe.splits.describe(),
        forgotten_before=as_results(recipe.forgotten_before),
        seed=args.seed,
        environment=environment(),
        **splits,
        gap=difference(splits["unlearned"], splits["retrained"]),
        stopping=trainer.stopping,
        scoring=metrics.scoring,
        history=history(trainer, splits["original"]),
        command=hide_tokens(shlex.join(["python", *sys.argv])),
        emissions_g=emissions(args),
        card={
            "base_model": base,
            "fine_tuned": base is not None and recipe.options.model == "train",
            "datasets": [recipe.data.dataset],
            "local": [
                *local_among(base, recipe.data.dataset),
                *local_paths(
                    [
                        *sys.argv,
                        args.output_dir,
                        *_texts(vars(recipe.options)),
                        *_texts(vars(recipe.data)),
                    ]
                ),
            ],
            **recipe.card_arguments(),
        },
        **_further(measured),
    )


def local_paths(words: Iterable[str]) -> list[str]:
    """The relative paths among words of a command line and values of options, which uploads leave
    out. The scripts and configurations of the package's own recipes are not private."""
    candidates = dict.fromkeys(word.partition("=")[2] or word for word in words)
    try:
        recipes_folder = recipes_root().resolve()
    except ModuleNotFoundError:
        # This must not end a finished run.
        recipes_folder = None
    return [
        path
        for path in local_among(*candidates)
        if "/" in path.strip("/")
        and not (recipes_folder and Path(path).resolve().is_relative_to(recipes_folder))
    ]


def _texts(options: dict) -> list[str]:
    return [value for value in options.values() if isinstance(value, str)]


def _further(measured: dict[str, Measurement | None]) -> dict[str, dict]:
    """What was measured besides the splits: {key: {model: values}}."""
    further = {model: measurement.further for model, measurement in measured.items() if measurement}
    return {
        key: {model: values[key] for model, values in further.items()}
        for key in further["unlearned"]
    }


def difference(unlearned: dict, retrained: dict | None) -> dict | None:
    """Unlearned minus retrained, for every metric of every split that both have."""
    if retrained is None:
        return None
    return {
        split: {
            name: value - retrained[split][name]
            for name, value in values.items()
            if name in retrained[split]
        }
        for split, values in unlearned.items()
        if split in retrained
    }


def history(trainer: UnlearnTrainer, original: dict) -> list[dict]:
    """The checks over the steps. The original model's evaluation is step 0 of the metrics that were
    not checked then."""
    checks = [
        row for row in trainer.state.log_history if any(key.startswith("check_") for key in row)
    ]
    checked = {key for row in checks if row["step"] == 0 for key in row}
    start = {
        f"check_{split}_{name}": value
        for split, values in original.items()
        for name, value in values.items()
        if f"check_{split}_{name}" not in checked
    }
    return [{"step": 0, **start}, *checks]


def write_run_files(recipe: Recipe, results: Results) -> None:
    """Writes results.json, the plot, the model card and report.html; prints the tables."""
    folder, named = Path(recipe.args.output_dir), recipe.args.name_forgotten
    results.write(folder)
    with warn_if_not_written(PLOT, folder):
        stopping = results.stopping or {}
        step = stopping.get("restored_step", stopping["step"])
        levels = {"original": results.original, "retrained": results.retrained}
        levels["final"] = (step, results.unlearned)
        levels["check_samples"] = recipe.args.check_samples
        file = folder / PLOT
        plot = plot_history(results.history, file, task=task_of(results), **levels)
        results.card["plot"] = plot.name
        results.write(folder)
    with warn_if_not_written("the model card", folder):
        write_card(folder, results, salt_of(folder), name_forgotten=named)
    with warn_if_not_written(REPORT, folder):
        salt = None if named else salt_of(folder)
        Report(results, salt, recipe.audio(results)).save(folder / REPORT)
    tables = filter(None, [results_table(results), further_tables(results)])
    last = [_stopping_line(results.stopping), phases_line(results.phases or {})]
    print("", *tables, *last, sep="\n\n")
    files = [RESULTS, PLOT, REPORT, CARD]
    print(f"model, {', '.join(name for name in files if (folder / name).exists())} are in {folder}")


def _stopping_line(stopping: dict) -> str:
    """Why and where a run stopped: "stopped after step 8: target reached (rule: ...)"."""
    details = {
        name.replace("_", " "): value
        for name, value in stopping.items()
        if name not in ("reason", "step") and value is not None
    }
    line = f"stopped after step {stopping['step']}: {stopping['reason']}"
    written = ", ".join(f"{name}: {value}" for name, value in details.items())
    return f"{line} ({written})" if written else line
