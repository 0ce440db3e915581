"""Refuses, before anything is trained, what could not be pushed to the Hub afterwards."""

from pathlib import Path

from ...hub.name_checks import check_name, require_base_on_hub
from ...hub.upload import check_login
from ..recipe import Recipe
from ..requests.hidden_names import names_to_hide


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
