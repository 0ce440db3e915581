"""One run of a recipe: reference models, unlearning, evaluation of all models, and the report."""

from ..report.results import Results
from ..trainer import UnlearnTrainer
from ..trainer.adapters import base_of, keep_merged, whole_base_of
from ..trainer.run_record import check_steps
from .checks import check_run, refuse_several_models
from .dry_run import dry_run
from .measurements import Measurement, evaluate, measure
from .processor_checks import check_processors
from .push_checks import check_push_of_recipe, names_to_hide
from .recipe import Recipe, freeze, make_trainer
from .reference_models import get_model
from .retrained_rules import fill_in_retrained
from .run_files import collect_results, write_run_files
from .shadow_models import ShadowModels, train_shadow_models


def unlearn(recipe: Recipe) -> dict:
    """Runs a recipe from its options to the report.

    The main process writes the model, its card, results.json, the plot and report.html to
    `output_dir`; `push_to_hub` uploads them. With `dry_run` or `evaluate` the function does only
    what these options say.

    Returns:
        The content of results.json (the plan for `dry_run`, evaluation.json for `evaluate`).

    Raises:
        ValueError: the options do not fit each other, the data or the model. All that can be known
            before a model is trained is refused before.
    """
    options, args = recipe.options, recipe.args
    if args.push_to_hub and not options.evaluate:
        check_push_of_recipe(recipe)
    if options.dry_run:
        return dry_run(recipe)
    if options.evaluate:
        return evaluate(recipe)
    check_steps(args, recipe.splits.forget)
    args.hide_names = names_to_hide(recipe)
    refuse_several_models(recipe)
    base = options.base_model if options.model == "train" else whole_base_of(options.model)
    check_processors(recipe)
    check_run(recipe)

    original = get_model(recipe, "original", options.model)
    shadows = train_shadow_models(recipe)
    retrained = _measure_retrained(recipe, shadows)
    levels = None if retrained is None else retrained.splits
    args.stop_when = fill_in_retrained(args.stop_when, levels)
    args.abort_when = fill_in_retrained(args.abort_when, levels)

    freeze(original, options.trainable)
    if options.lora_r and base_of(options.model) is not None:
        keep_merged(original, args.output_dir, main=args.process_index == 0)
    trainer = make_trainer(recipe, original, args, lora_r=options.lora_r)
    before = measure(recipe, trainer, shadows)
    trainer.train()
    after = measure(recipe, trainer, shadows)
    # `_internal_call` keeps `save_model` from pushing: the push comes once the card is written.
    trainer.save_model(_internal_call=True)
    measured = {"original": before, "unlearned": after, "retrained": retrained}
    results = collect_results(recipe, trainer, measured, base)
    _finish(recipe, trainer, results)
    return results.to_dict()


def _measure_retrained(recipe: Recipe, shadows: ShadowModels | None) -> Measurement | None:
    """The retrained model's numbers; None without such a model (`gold: none`)."""
    if recipe.options.gold == "none":
        return None
    model = get_model(recipe, "retrained", recipe.options.gold)
    return measure(recipe, recipe.evaluation_trainer(model), shadows)


def _finish(recipe: Recipe, trainer: UnlearnTrainer, results: Results) -> None:
    """Writes the files of a run, and pushes them where `push_to_hub` says so."""
    if trainer.is_world_process_zero():
        # Written before the recipe's own ending, so that an error there loses no numbers.
        results.write(recipe.args.output_dir)
    recipe.finish(results, trainer)
    trainer.results = results
    if trainer.is_world_process_zero():
        write_run_files(recipe, results)
    if recipe.args.push_to_hub:
        trainer.push_to_hub()
