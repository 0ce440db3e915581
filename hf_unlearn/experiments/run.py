"""One run of a recipe: the original and the retrained model, unlearning, evaluation of all three,
and the report."""

import logging
import re
import shlex
import sys
from pathlib import Path

from torch import nn

from ..evaluation import evaluate_splits
from ..files import write_json
from ..hub.metadata import local_among
from ..hub.model_card import write_card
from ..hub.name_checks import check_base, check_name
from ..hub.upload import check_login
from ..metrics.scales import scale_of
from ..privacy.redaction import hide_tokens, salt_of
from ..report.best_effort import warn_if_not_written
from ..report.environment import emissions, environment
from ..report.html_page import Report
from ..report.plots import plot_history
from ..report.result_tables import further_tables, results_table
from ..report.results import Results
from ..report.tasks import TASKS, task_of
from ..trainer import UnlearnTrainer
from ..trainer.adapters import base_of, keep_merged, whole_base_of
from ..trainer.ending import check_steps
from .checks import check_run, first_trainer, loading
from .earlier import as_results
from .membership import Shadows, attack, shadow_models, unseen_split
from .processors import check_processors
from .recipe import Recipe, freeze, make_trainer
from .reference_models import get_model

logger = logging.getLogger(__name__)


def unlearn(recipe: Recipe) -> Results | dict:
    """The whole run. The main process leaves model, card, results.json and plot in output_dir;
    returns the results.

    All of it is pushed to the Hub where `push_to_hub` says so.
    """
    options, args = recipe.options, recipe.args
    if args.push_to_hub and not options.evaluate:
        check_push(recipe)
    if options.dry_run:
        return dry_run(recipe)
    if options.evaluate:
        return evaluate(recipe)
    check_steps(args, recipe.splits.forget)
    args.hide_names = whom_to_hide(recipe)
    if args.deepspeed_plugin is not None and (options.trains or options.gold != "none"):
        raise ValueError(
            f"DeepSpeed serves one model in a process, but model is {options.model!r}, gold is "
            f"{options.gold!r} and "
            f"shadow_models is {options.shadow_models}: train the model before (model: a folder or "
            "Hub id), and leave the "
            "others out (gold: none, shadow_models: 0)"
        )
    base = options.base_model if options.model == "train" else whole_base_of(options.model)
    check_processors(recipe)
    check_run(recipe)
    original = get_model(recipe, "original", options.model)
    shadows = shadow_models(recipe)
    retrained, of_retrained = None, {}
    if options.gold != "none":
        alone = recipe.trainer_alone(get_model(recipe, "retrained", options.gold))
        retrained, of_retrained = measure(recipe, alone, shadows)
    args.stop_when = fill_in_retrained(args.stop_when, retrained)
    args.abort_when = fill_in_retrained(args.abort_when, retrained)

    freeze(original, options.trainable)
    if options.lora_r and base_of(options.model) is not None:
        keep_merged(original, args.output_dir, main=args.process_index == 0)
    trainer = make_trainer(recipe, original, args, lora_r=options.lora_r)
    before, of_original = measure(recipe, trainer, shadows)
    trainer.train()
    after, of_unlearned = measure(recipe, trainer, shadows)
    trainer.save_model(_internal_call=True)  # a push comes when the card is there
    results = Results(
        task=recipe.task,
        scale=scale_of(trainer.compute_metrics),
        config={
            "recipe": vars(options),
            "data": vars(recipe.data),
            "trainer": trainer.args.to_dict(),
            "processes": args.world_size,
        },
        method_settings=trainer.method_settings,
        data=recipe.splits.describe(),
        forgotten_before=as_results(recipe.forgotten_before),
        seed=args.seed,
        environment=environment(),
        original=before,
        unlearned=after,
        retrained=retrained,
        gap=gap(after, retrained),
        stopping=trainer.stopping,
        scoring=scoring(trainer),
        history=history(trainer, before),
        command=hide_tokens(shlex.join(["python", *sys.argv])),
        emissions_g=emissions(args),
        card={
            "base_model": base,
            "datasets": [recipe.data.dataset],
            "local": local_among(base, recipe.data.dataset),
            **recipe.card_arguments(),
        },
    )
    for name in of_unlearned:
        measured = {"original": of_original, "unlearned": of_unlearned, "retrained": of_retrained}
        results[name] = {model: values[name] for model, values in measured.items() if values}
    if trainer.is_world_process_zero():  # before anything that could fail
        results.write(args.output_dir)
    recipe.finish(results, trainer)
    trainer.results = results
    if trainer.is_world_process_zero():
        _report(recipe, results)
    if args.push_to_hub:
        trainer.push_to_hub()
    return results


def whom_to_hide(recipe: Recipe) -> list[str]:
    task, given = TASKS[recipe.task], recipe.args.hide_names
    if not task.personal:
        return given
    forgotten = recipe.splits.describe()[task.groups]["forget"]
    return sorted({*given, *forgotten, *recipe.forgotten_before.get("speaker", ())})


def check_push(recipe: Recipe) -> None:
    """Refuses, before anything is trained, what could not be pushed after it.

    Raises:
        ValueError: an adapter of a model that is trained here; a repository's name that names
            somebody.
        HubError: the Hub does not know the token, or cannot be reached.
    """
    options, args = recipe.options, recipe.args
    repo_id = args.hub_model_id or Path(args.output_dir).absolute().name
    check_name(repo_id, [] if args.name_forgotten else whom_to_hide(recipe))
    if options.lora_r:
        check_base("the model trained here" if options.model == "train" else options.model)
    if not options.dry_run and args.process_index == 0:
        check_login(repo_id, args.output_dir, args.hub_token)


def dry_run(recipe: Recipe) -> dict:
    """Prints what a run would do, with the model that it would start from, and trains nothing.
    Raises ValueError for what could not work (`first_trainer`)."""
    options, args, task = recipe.options, recipe.args, TASKS[recipe.task]
    check_steps(args, recipe.splits.forget)
    check_processors(recipe)
    trainer = first_trainer(recipe)
    described = recipe.splits.describe()
    plan = {
        task.units: described[task.units],
        "model": options.model,
        "retrained model": options.gold,
        "shadow models": options.shadow_models,
        "method": ", ".join(
            [
                str(args.method),
                *(f"{name} {value}" for name, value in trainer.method_settings.items()),
            ]
        ),
        "steps": args.max_steps if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs",
        **recipe.plan(),
        **training_memory(trainer.model, args.optim.value),
        "not counted": "activations, per-sample gradients of one layer",
        "output": args.output_dir,
    }
    if trainer.is_world_process_zero():
        print("\n".join(f"{name}: {value}" for name, value in plan.items()))
    return plan


def training_memory(model: nn.Module, optimizer: str) -> dict:
    """Numbers of parameters, and MiB of weights, gradients and optimizer states."""
    total = sum(p.numel() for p in model.parameters())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.numel() * p.element_size() for p in trained)
    states = 2 * gradients if "adam" in optimizer else 0 if optimizer == "sgd" else None
    count = sum(p.numel() for p in trained)
    mebibytes = {"weights": weights, "gradients": gradients, f"states of {optimizer}": states}
    return {
        "trained parameters": f"{count:,} of {total:,} ({100 * count / total:.2f} %)",
        "memory": ", ".join(
            f"{name} {'not known' if size is None else f'{size / 2**20:.1f} MiB'}"
            for name, size in mebibytes.items()
        ),
    }


def evaluate(recipe: Recipe) -> dict:
    """Evaluates `model` on the splits; evaluation.json goes into its folder, or output_dir for a
    model of the Hub."""
    options = recipe.options
    if options.model == "train":
        raise ValueError(
            "model is 'train', but only a model that is there can be evaluated: give "
            "a folder or Hub id"
        )
    shadows = shadow_models(recipe)
    with loading(options.model):
        trainer = recipe.trainer_alone(recipe.load_model(options.model))
    metrics, measured = measure(recipe, trainer, shadows)
    further = {name: {"evaluated": values} for name, values in measured.items()}
    results = {
        "task": recipe.task,
        "scale": scale_of(trainer.compute_metrics),
        "model": options.model,
        "scoring": scoring(trainer),
        "evaluated": metrics,
        **further,
    }
    if recipe.args.process_index == 0:
        folder = Path(options.model if Path(options.model).is_dir() else recipe.args.output_dir)
        write_json(folder / "evaluation.json", results)
        tables = filter(None, [results_table(results), further_tables(results)])
        print("", *tables, f"evaluation.json is in {folder}", sep="\n\n")
    return results


def measure(recipe: Recipe, trainer: UnlearnTrainer, shadows: Shadows | None) -> tuple[dict, dict]:
    """The metrics of the splits of the trainer's model, and by the keys of results.json what else
    is known of it."""
    metrics, measured = evaluate_splits(trainer, trainer.eval_dataset), recipe.measure(trainer)
    if recipe.options.attacks and unseen_split(recipe) is None:
        logger.warning(
            "No membership attacks: there are no unseen samples like the forgotten ones "
            "(see held_out)."
        )
    elif recipe.options.attacks:
        measured["attacks"] = attack(recipe, trainer, shadows)
    return metrics, measured


def fill_in_retrained(rule: str | None, retrained: dict | None) -> str | None:
    """Puts the retrained model's value in place of the word: "forget_wer >= retrained" ->
    "forget_wer >= 61.8".

    Raises:
        ValueError: the rule has the word, but there is no retrained model, or it has no such
            metric.
    """
    match = re.fullmatch(r"\s*(\w+)_([a-z]+)(.*)\bretrained\s*", rule or "")
    if match is None:
        return rule
    split, metric, comparison = match.groups()
    if retrained is None:
        raise ValueError(
            f"the rule {rule!r} needs the retrained model: set gold to 'train', a "
            "folder or a Hub id"
        )
    if metric not in retrained.get(split, {}):
        known = [f"{name}_{key}" for name, values in retrained.items() for key in values]
        raise ValueError(
            f"the rule {rule!r} names no metric of the retrained model, which are "
            f"{', '.join(known)}"
        )
    return f"{split}_{metric}{comparison}{retrained[split][metric]:.4f}"


def scoring(trainer: UnlearnTrainer) -> dict | None:
    """How the texts of speech recognition are compared (see `asr_metrics`); None for other
    tasks."""
    return getattr(trainer.compute_metrics, "scoring", None)


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
    rows = [
        row for row in trainer.state.log_history if any(key.startswith("check_") for key in row)
    ]
    start = {
        f"check_{split}_{name}": value
        for split, row in original.items()
        for name, value in row.items()
    }
    return [{"step": 0, **start}, *rows]


def _report(recipe: Recipe, results: Results) -> None:
    """Writes results.json, the plot, the model's card and the report; prints the tables."""
    folder = Path(recipe.args.output_dir)
    levels = {"original": results.original, "retrained": results.retrained}
    results.write(folder)
    with warn_if_not_written("forgetting.png", folder):
        plot = plot_history(
            results.history, folder / "forgetting.png", task=task_of(results), **levels
        )
        results.card["plot"] = plot.name
        results.write(folder)
    with warn_if_not_written("the model card", folder):
        write_card(folder, results, salt_of(folder), name_forgotten=recipe.args.name_forgotten)
    with warn_if_not_written("report.html", folder):
        salt = None if recipe.args.name_forgotten else salt_of(folder)
        Report(results, salt, recipe.audio(results)).save(folder / "report.html")
    print(
        "",
        results_table(results),
        *filter(None, [further_tables(results)]),
        results.stopping,
        sep="\n\n",
    )
    files = ["results.json", "forgetting.png", "report.html", "README.md"]
    print(f"model, {', '.join(name for name in files if (folder / name).exists())} are in {folder}")
