"""What a run leaves in its output folder beside the model: results.json, plot, card, report."""

import shlex
import sys
from pathlib import Path

from ..hub.metadata import local_among
from ..hub.model_card import write_card
from ..metrics.scales import scale_of
from ..privacy.redaction import hide_tokens, salt_of
from ..report.best_effort import warn_if_not_written
from ..report.environment import emissions, environment
from ..report.html_page import Report
from ..report.plots import plot_history
from ..report.result_tables import further_tables, results_table
from ..report.results import Results
from ..report.run_layout import CARD, PLOT, REPORT, RESULTS
from ..report.tasks import task_of
from ..trainer import UnlearnTrainer
from .measurements import Measurement, scoring
from .previous_requests import as_results
from .recipe import Recipe


def collect_results(
    recipe: Recipe,
    trainer: UnlearnTrainer,
    measured: dict[str, Measurement | None],
    base: str | None,
) -> Results:
    """The content of results.json.

    Args:
        measured: the numbers of "original", "unlearned" and "retrained"; None for a missing model.
        base: the model that the original one was fine-tuned from, for the card.
    """
    args = recipe.args
    splits = {model: found and found.splits for model, found in measured.items()}
    return Results(
        task=recipe.task,
        scale=scale_of(trainer.compute_metrics),
        config={
            "recipe": vars(recipe.options),
            "data": vars(recipe.data),
            "trainer": trainer.args.to_dict(),
            "processes": args.world_size,
        },
        method_settings=trainer.method_settings,
        data=recipe.splits.describe(),
        forgotten_before=as_results(recipe.forgotten_before),
        seed=args.seed,
        environment=environment(),
        **splits,
        gap=gap(splits["unlearned"], splits["retrained"]),
        stopping=trainer.stopping,
        scoring=scoring(trainer),
        history=history(trainer, splits["original"]),
        command=hide_tokens(shlex.join(["python", *sys.argv])),
        emissions_g=emissions(args),
        card={
            "base_model": base,
            "datasets": [recipe.data.dataset],
            "local": local_among(base, recipe.data.dataset),
            **recipe.card_arguments(),
        },
        **_further(measured),
    )


def _further(measured: dict[str, Measurement | None]) -> dict[str, dict]:
    """What was measured beside the splits: {key: {model: values}}."""
    known = {model: found.further for model, found in measured.items() if found}
    return {
        key: {model: values[key] for model, values in known.items()} for key in known["unlearned"]
    }


def gap(unlearned: dict, retrained: dict | None) -> dict | None:
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
    """The checks over the steps, with the original model as step 0."""
    checks = [
        row for row in trainer.state.log_history if any(key.startswith("check_") for key in row)
    ]
    start = {
        f"check_{split}_{name}": value
        for split, values in original.items()
        for name, value in values.items()
    }
    return [{"step": 0, **start}, *checks]


def write_run_files(recipe: Recipe, results: Results) -> None:
    """Writes results.json, the plot, the model card and report.html; prints the tables."""
    folder, named = Path(recipe.args.output_dir), recipe.args.name_forgotten
    results.write(folder)
    with warn_if_not_written(PLOT, folder):
        levels = {"original": results.original, "retrained": results.retrained}
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
    print("", *tables, _stopping_line(results.stopping), sep="\n\n")
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
