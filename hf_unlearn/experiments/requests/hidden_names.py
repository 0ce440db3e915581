"""The names that a run must not publish."""

from ...report.tasks import TASKS
from ..recipe import Recipe


def names_to_hide(recipe: Recipe) -> list[str]:
    """The names that must not be published: `hide_names`, and the persons whom this request or
    an earlier one forgets."""
    task, hide_names = TASKS[recipe.task], recipe.args.hide_names
    # An earlier request may name persons where this one names classes.
    earlier = recipe.forgotten_before.get("speaker", ())
    forgotten = recipe.splits.describe()[task.groups]["forget"] if task.personal else ()
    return sorted({*hide_names, *forgotten, *earlier})
