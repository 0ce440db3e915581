"""One run of a recipe: the original and the retrained model, unlearning, evaluation of all models,
and the report."""

from pathlib import Path
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel, set_seed

from ...report.best_effort import warn_if_not_written
from ...report.file_names import LEDGER
from ...report.results import Results
from ...trainer import StepDigests, UnlearnTrainer, base_of, check_steps, keep_merged, whole_base_of
from ..checks.model_checks import check_run, refuse_several_models
from ..checks.processor_checks import check_processors
from ..checks.push_checks import check_push_of_recipe
from ..checks.retrained_rules import check_limit_at_retrained, with_retrained_values
from ..models.shadow_models import ShadowModels, train_shadow_models
from ..models.side_by_side import model_names
from ..models.training import get_model
from ..progress import announce, label_bars
from ..recipe import Recipe, freeze, make_trainer
from ..requests.entry import begin_entry, finish_entry, keep_entries
from ..requests.keeping import keeping_arguments
from ..requests.run_arguments import completed_arguments
from ..requests.stacking import stack_adapters
from ..threads import threads_for
from .dry_run import dry_run
from .measurement_cache import measured_or_cached
from .measurements import Measurement, evaluate, measure
from .run_files import collect_results, write_run_files


def unlearn(recipe: Recipe) -> dict:
    """Runs a recipe from its options to the report.

    The main process writes the model, its card, results.json, the plot and report.html to
    `output_dir`; `push_to_hub` uploads them. With `dry_run` or `evaluate` the function does only
    what these options say.

    Returns:
        The content of results.json (the plan for `dry_run`, evaluation.json for `evaluate`).

    Raises:
        ValueError: the options do not fit each other, the data or the model. All that
            needs no trained model is checked before one is trained.
    """
    options, args = recipe.options, recipe.args
    if args.push_to_hub and not options.evaluate:
        check_push_of_recipe(recipe)
    if options.dry_run:
        return dry_run(recipe)
    if options.evaluate:
        return evaluate(recipe)
    recipe = recipe.with_args(completed_arguments(recipe))
    base = whole_base_of(options.start)
    _check(recipe)
    models = load_or_train(recipe)
    names, retrained = _measure_retrained(recipe, models)
    values = None if retrained is None else retrained.splits
    recipe = recipe.with_args(with_retrained_values(recipe.args, options, values))

    start_digest = begin_entry(recipe, names["original"]) if args.process_index == 0 else None
    trainer = unlearning_trainer(recipe, models.original)
    before = measured_or_cached(recipe, trainer, "original", models.shadows)
    announce(recipe, "unlearning")
    label_bars(trainer, "unlearning")
    train_to_forget(recipe, trainer)
    announce(recipe, "measuring")
    after = measure(recipe, trainer, models.shadows)
    save_model(recipe, trainer)
    measured = {"original": before, "unlearned": after, "retrained": retrained}
    results = collect_results(recipe, trainer, measured, names, base)
    _finish(recipe, trainer, results, start_digest)
    return results.to_dict()


def unlearning_trainer(recipe: Recipe, original: nn.Module) -> UnlearnTrainer:
    """The trainer that makes the original model forget."""
    options, args = recipe.options, recipe.args
    freeze(original, options.trainable)
    if options.lora_r and base_of(options.model) is not None:
        keep_merged(original, args.output_dir, main=args.process_index == 0)
    # A new adapter's random weights then depend only on the seed, and a run can be repeated.
    set_seed(args.seed)
    kept = keeping_arguments(recipe, original)
    trainer = make_trainer(recipe, original, args, lora_r=options.lora_r, **kept)
    if options.digest_steps:
        trainer.add_callback(StepDigests(trainer, options.digest_steps))
    return trainer


def save_model(recipe: Recipe, trainer: UnlearnTrainer) -> None:
    """Saves the unlearned model; with `merge_adapter: false`, as one adapter with the earlier."""
    main = trainer.is_world_process_zero()
    if main:
        keep_entries(recipe)
    # `_internal_call` keeps `save_model` from pushing: the push comes once the card is written.
    trainer.save_model(_internal_call=True)
    if main and not recipe.options.merge_adapter:
        stack_adapters(recipe)


def train_to_forget(recipe: Recipe, trainer: UnlearnTrainer) -> None:
    """Unlearns, and counts the checks of the stopping rules as a phase of their own."""
    args, clock = recipe.args, recipe.clock
    samples = args.per_device_train_batch_size + args.per_device_retain_batch_size
    with threads_for(recipe, trainer.model, samples), clock.phase("unlearning"):
        with clock.calls(trainer, "evaluate", "checks"):
            trainer.train()


def _check(recipe: Recipe) -> None:
    """Refuses what cannot work, before a model is trained."""
    check_steps(recipe.args, recipe.splits.forget)
    check_limit_at_retrained(recipe.options, recipe.args)
    refuse_several_models(recipe)
    check_processors(recipe)
    check_run(recipe)


class StartingModels(NamedTuple):
    """What a run has before it unlearns.

    Attributes:
        original: the model that is to forget.
        names: folder or Hub id of the "original" and the "retrained" model; of the latter "train"
            if it has yet to be trained, and "none" without such a model.
        shadows: the shadow models of LiRA; None without.
    """

    original: PreTrainedModel
    names: dict[str, str]
    shadows: ShadowModels | None


def load_or_train(recipe: Recipe) -> StartingModels:
    """Loads or trains the models that unlearning and its measurements start from."""
    with recipe.clock.phase("training"):
        names = model_names(recipe)
        names["original"], original = get_model(recipe, "original", names["original"])
    if recipe.options.shadow_models:
        announce(recipe, "training the shadow models")
    with recipe.clock.phase("shadow_models"):
        shadows = train_shadow_models(recipe)
    return StartingModels(original, names, shadows)


def _measure_retrained(
    recipe: Recipe, models: StartingModels
) -> tuple[dict[str, str], Measurement | None]:
    """The folders or Hub ids of both models, now that the retrained one is trained, and its
    numbers; without such a model (`gold: none`), the original's alone and None."""
    names = {"original": models.names["original"]}
    if models.names["retrained"] == "none":
        return names, None
    with recipe.clock.phase("training"):
        names["retrained"], model = get_model(recipe, "retrained", models.names["retrained"])
    trainer = recipe.evaluation_trainer(model)
    return names, measured_or_cached(recipe, trainer, "retrained", models.shadows)


def _finish(
    recipe: Recipe, trainer: UnlearnTrainer, results: Results, start_digest: str | None
) -> None:
    """Writes the files of a run, and pushes them where `push_to_hub` says so.

    Args:
        start_digest: of the weights that the run started from, for the ledger.
    """
    results.phases = recipe.clock.phases
    if trainer.is_world_process_zero():
        # Written before `recipe.finish`, so that an error there loses no numbers.
        results.write(recipe.args.output_dir)
        with warn_if_not_written(LEDGER, Path(recipe.args.output_dir)):
            finish_entry(recipe, trainer, results, start_digest)
    recipe.finish(results, trainer)
    trainer.results = results
    if trainer.is_world_process_zero():
        write_run_files(recipe, results)
    if recipe.args.push_to_hub:
        trainer.push_to_hub()
