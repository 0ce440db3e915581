"""Shadow models, with which LiRA compares: trained like the original, on half of the candidates."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from torch import nn
from tqdm.auto import tqdm

from ...evaluation import sample_features
from ...files import write_json
from ...metrics.membership import scaled_confidence
from ...trainer import all_processes
from ..recipe import Recipe
from .training import rows_digest, train_or_reuse

MAX_PATTERNS = 512
# File beside a shadow model, with its confidence in every candidate.
CONFIDENCES = "confidences.json"


@dataclass(frozen=True)
class ShadowModels:
    """The confidences of the shadow models.

    Attributes:
        columns: {candidate's id: its column in the arrays}.
        confidences: (models, candidates), the scaled confidence in the true label.
        trained: (models, candidates), whether the model was trained on the candidate.
    """

    columns: dict[str, int]
    confidences: np.ndarray
    trained: np.ndarray


def train_shadow_models(recipe: Recipe) -> ShadowModels | None:
    """Trains the shadow models that do not exist yet; None where the options ask for none.

    Each is trained like the original, on the retained data and half of the candidates. Candidates
    are the forgotten training samples and unseen samples like them. Models come in pairs that share
    the candidates, so that half of the models were trained on each candidate.

    Raises:
        ValueError: the number of models is odd or below four, or there are no unseen samples.
    """
    options, count = recipe.options, recipe.options.shadow_models
    if not count:
        return None
    if count < 4 or count % 2:
        raise ValueError(
            f"shadow_models is {count}: give an even number from 4, because models come in pairs "
            "that share the samples"
        )
    if recipe.unseen_split is None:
        raise ValueError(
            "shadow models need unseen samples like the forgotten ones: set held_out, or a "
            "test_split"
        )
    groups = [recipe.splits.forget, getattr(recipe.splits, recipe.unseen_split)]
    candidates = concatenate_datasets(groups)
    ids = candidates["id"][:]
    trained = split_in_halves([len(group) for group in groups], count, recipe.training_seed)
    store = Path(options.models_dir or Path(recipe.args.output_dir) / "shadows")
    quiet = recipe.args.disable_tqdm or recipe.args.process_index > 0
    confidences = []
    for number, chosen in enumerate(
        tqdm(trained, desc="shadow models", unit="model", disable=quiet)
    ):
        seed = recipe.training_seed + 1 + number
        values = confidences_by(recipe, candidates, np.flatnonzero(chosen), seed, store)
        confidences.append([values[name] for name in ids])
    columns = {name: column for column, name in enumerate(ids)}
    return ShadowModels(columns, np.array(confidences), trained)


def split_in_halves(sizes: Sequence[int], models: int, seed: int) -> np.ndarray:
    """Draws which models are trained on which samples.

    The set of models that are trained on a sample is the sample's pattern. Patterns are dealt out
    evenly within each group of samples: LiRA compares the groups, and would mistake a difference
    between patterns for one between groups.

    Args:
        sizes: the sizes of the groups, whose samples follow one another.

    Returns:
        Bools of shape (models, samples). Each even row marks half of the samples, and the row below
        it the other half.
    """
    pairs, rng = models // 2, np.random.default_rng(seed)
    firsts = rng.choice(2 ** (pairs - 1), size=min(2 ** (pairs - 1), MAX_PATTERNS), replace=False)
    # Each pattern stands beside its opposite, so that every model gets half of the samples.
    patterns = np.stack([firsts, 2**pairs - 1 - firsts], axis=1).ravel()
    dealt = np.concatenate([patterns[rng.permutation(size) % len(patterns)] for size in sizes])
    # (pairs, samples)
    trained = (dealt >> np.arange(pairs)[:, None]) & 1 == 1
    # (models, samples)
    return np.stack([trained, ~trained], axis=1).reshape(models, -1)


def confidences_by(
    recipe: Recipe, candidates: Dataset, chosen: np.ndarray, seed: int, store: Path
) -> dict[str, float]:
    """The scaled confidence in every candidate, by its id, of one shadow model.

    Args:
        chosen: the rows of the candidates that the model is trained on, besides the retained data.
        store: the folder of the shadow models.
    """
    pool = recipe.splits.retain_pool
    rows = concatenate_datasets([candidates.select(chosen), pool])
    data = [rows_digest(candidates), chosen.tolist(), rows_digest(pool)]
    folder = train_or_reuse(recipe, rows, data, seed, store)
    path = folder / CONFIDENCES
    if not all_processes(path.exists())[0]:
        losses = losses_by(recipe, recipe.load_model(str(folder)), candidates)
        if recipe.args.process_index == 0:
            write_json(path, dict(zip(candidates["id"][:], scaled_confidence(losses))))
        # Waits for the file.
        all_processes(None)
    return json.loads(path.read_text())


def losses_by(recipe: Recipe, model: nn.Module, rows: Dataset) -> np.ndarray:
    """The losses (n,) of the rows under a model."""
    trainer = recipe.evaluation_trainer(model)
    return sample_features(trainer, recipe.evaluation_data(model, rows))["loss"]
