"""Refuses, before anything is trained, what could not be pushed to the Hub afterwards."""

from pathlib import Path

from ...hub.name_checks import check_name, require_base_on_hub
from ...hub.upload import check_login
from ...report.tasks import TASKS
from ..recipe import Recipe


def check_push_of_recipe(recipe: Recipe) -> None:
    """Refuses a push that would fail after training.

    Raises:
        ValueError: the base of the adapter is not on the Hub, or the repository's name contains
            the name of a forgotten person.
        HubError: the Hub rejects the token, or cannot be reached.
    """
    options, args = recipe.options, recipe.args
    repo_id = args.hub_model_id or Path(args.output_dir).absolute().name
    check_name(repo_id, [] if args.name_forgotten else names_to_hide(recipe))
    if options.lora_r:
        require_base_on_hub("the model trained here" if options.model == "train" else options.model)
    if not options.dry_run and args.process_index == 0:
        check_login(repo_id, args.output_dir, args.hub_token)


def names_to_hide(recipe: Recipe) -> list[str]:
    """The names that must not be published: `hide_names`, and the persons whom this request or
    an earlier one forgets."""
    task, hide_names = TASKS[recipe.task], recipe.args.hide_names
    # An earlier request may name persons where this one names classes.
    earlier = recipe.forgotten_before.get("speaker", ())
    forgotten = recipe.splits.describe()[task.groups]["forget"] if task.personal else ()
    return sorted({*hide_names, *forgotten, *earlier})
