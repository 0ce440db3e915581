"""The option `keep_forgotten`, as arguments of the trainer: earlier requests must stay
forgotten."""

from torch import nn
from torch.utils.data import ConcatDataset, Dataset

from ...report.file_names import LEDGER
from ..recipe import Recipe


def keeping_arguments(recipe: Recipe, model: nn.Module) -> dict:
    """The arguments of `UnlearnTrainer` for the option `keep_forgotten`; {} for a first request.

    Raises:
        ValueError: the earlier requests are not known, or the data lacks the samples of one.
    """
    way = recipe.options.keep_forgotten
    if way == "none" or not (recipe.earlier.entries or recipe.forgotten_before):
        return {}
    if not recipe.earlier.entries:
        raise ValueError(
            f"keep_forgotten is {way!r}, and {recipe.options.model} has earlier requests, but "
            f"there is no {LEDGER} beside it that lists them: set keep_forgotten to none"
        )
    if way == "updates":
        return {"previous_updates": [recipe.options.model]}
    return {"previous_forget_dataset": earlier_dataset(recipe, model)}


def earlier_dataset(recipe: Recipe, model: nn.Module) -> Dataset:
    """The samples of all earlier requests, in the form of the retained ones: a batch has both.

    Raises:
        ValueError: the data lacks the samples of an earlier request.
    """
    parts = recipe.splits.earlier
    requests = [entry["request"] for entry in recipe.earlier.entries]
    lacking = [str(n) for n in requests if not len(parts.get(f"earlier_{n}", ()))]
    if lacking:
        raise ValueError(
            f"keep_forgotten is 'samples', but the data has no sample of request "
            f"{', '.join(lacking)}, or the salt that recognises them is missing: use "
            "keep_forgotten: updates, or give the data and the model's own folder"
        )
    rows = [recipe.unlearning_data(model, parts[f"earlier_{n}"]) for n in requests]
    return rows[0] if len(rows) == 1 else ConcatDataset(rows)
