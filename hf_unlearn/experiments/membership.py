"""Membership attacks on the models of a run, for every kind of data, and the shadow models that
LiRA compares with."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from torch import nn
from tqdm.auto import tqdm

from ..evaluation import sample_features
from ..files import write_json
from ..metrics.privacy import (
    attack_rates,
    lira_scores,
    loss_attack,
    lowest_fpr,
    scaled_confidence,
    svc_attacks_on,
)
from ..trainer import UnlearnTrainer
from ..trainer.exchange import all_processes
from .recipe import Recipe
from .reference_models import digest, kept_model

logger = logging.getLogger(__name__)

PATTERNS = 512  # most of one kind that are dealt out
CONFIDENCES = "confidences.json"  # beside a shadow model: what it says of every candidate


@dataclass(frozen=True)
class Shadows:
    """What the shadow models say of the candidates.

    places: candidate's id -> its column.
    confidences, trained: (models, candidates): scaled confidence, and whether the model was trained
        on the candidate.
    """

    places: dict[str, int]
    confidences: np.ndarray
    trained: np.ndarray


def attack(
    recipe: Recipe, trainer: UnlearnTrainer, shadows: Shadows | None
) -> dict[str, float | None]:
    """The entries of ATTACKS that can be had for the trainer's model; every process has to call it.

    Forgotten training samples stand against unseen samples of the same speakers or classes (against
    the test split where single samples are forgotten). None for each where the model has diverged:
    the run's other results are still wanted.
    """
    unseen = unseen_split(recipe)
    splits = {"forget", unseen, "retain", "test"} & set(trainer.eval_dataset)
    seen = {name: sample_features(trainer, trainer.eval_dataset[name]) for name in sorted(splits)}
    rates = {"lowest_fpr": lowest_fpr(len(seen[unseen]["loss"]))}
    if not all(np.isfinite(split["loss"]).all() for split in seen.values()):
        logger.warning(
            "The model's outputs are not all finite: there is nothing that membership "
            "attacks could tell."
        )
        return rates
    rates |= loss_attack(seen["forget"]["loss"], seen[unseen]["loss"])
    if "test" in seen:
        rates |= svc_attacks_on(seen["retain"], seen["test"], seen["forget"])
    if shadows is not None:
        rates |= attack_rates(
            "lira",
            *lira(recipe, shadows, {name: seen[name]["loss"] for name in ("forget", unseen)}),
        )
    return rates


def unseen_split(recipe: Recipe) -> str | None:
    """The split of unseen samples that are like the forgotten ones; None where there is none."""
    split = "test" if recipe.task == "samples" else "forget_test"
    return split if split in recipe.splits.evaluation() else None


def lira(recipe: Recipe, shadows: Shadows, losses: dict[str, np.ndarray]) -> list[np.ndarray]:
    """LiRA's scores of the evaluated samples of some splits, from their losses by the model under
    attack.

    All splits together: deviations estimated in each would differ, and so give the splits away.
    """
    evaluated = recipe.splits.evaluation(recipe.data.max_eval_samples)
    columns = [shadows.places[name] for split in losses for name in evaluated[split]["id"][:]]
    confidences = scaled_confidence(np.concatenate(list(losses.values())))
    scores = lira_scores(
        confidences, shadows.confidences[:, columns], shadows.trained[:, columns], online=True
    )
    return np.split(scores, np.cumsum([len(split) for split in losses.values()])[:-1])


# ---- shadow models --------------------------------------------------------------------------------------------------


def shadow_models(recipe: Recipe) -> Shadows | None:
    """Trains the shadow models that are not there yet; None where the options ask for none.

    Each is trained as the original was, on the retained data and half of the candidates: of the
    forgotten training samples and of the unseen ones like them. A pair shares out the candidates,
    so that half of the models know each of them.

    Raises:
        ValueError: an odd number of models, or fewer than four; no unseen samples.
    """
    options, count = recipe.options, recipe.options.shadow_models
    if not count:
        return None
    if count < 4 or count % 2:
        raise ValueError(
            f"shadow_models is {count}: give an even number from 4, since pairs share "
            "out the samples"
        )
    unseen = unseen_split(recipe)
    if unseen is None:
        raise ValueError(
            "shadow models need unseen samples like the forgotten ones: set held_out, "
            "or a test_split"
        )
    groups = [recipe.splits.forget, getattr(recipe.splits, unseen)]
    candidates = concatenate_datasets(groups)
    store = Path(options.models_dir or Path(recipe.args.output_dir) / "shadows")
    trained = halves([len(group) for group in groups], count, recipe.training_seed)
    quiet = recipe.args.disable_tqdm or recipe.args.process_index > 0
    confidences = [
        confidences_by(
            recipe, candidates, np.flatnonzero(chosen), recipe.training_seed + 1 + number, store
        )
        for number, chosen in enumerate(
            tqdm(trained, desc="shadow models", unit="model", disable=quiet)
        )
    ]
    ids = candidates["id"][:]
    return Shadows(
        {name: place for place, name in enumerate(ids)},
        np.array([[found[name] for name in ids] for found in confidences]),
        trained,
    )


def halves(sizes: Sequence[int], models: int, seed: int) -> np.ndarray:
    """(models, samples) bools: each even row marks half of the samples, the row below the other
    half.

    Which models know a sample is its pattern. Patterns are dealt out evenly in each group of
    samples: LiRA compares the groups, and would see a difference between patterns as one between
        groups.

    Args:
        sizes: of the groups, whose samples follow one another.
    """
    pairs, rng = models // 2, np.random.default_rng(seed)
    firsts = rng.choice(2 ** (pairs - 1), size=min(2 ** (pairs - 1), PATTERNS), replace=False)
    # beside each the one that is its opposite
    patterns = np.stack([firsts, 2**pairs - 1 - firsts], axis=1).ravel()
    dealt = np.concatenate([patterns[rng.permutation(size) % len(patterns)] for size in sizes])
    known = (dealt >> np.arange(pairs)[:, None]) & 1 == 1  # (pairs, samples)
    return np.stack([known, ~known], axis=1).reshape(models, -1)


def confidences_by(
    recipe: Recipe, candidates: Dataset, chosen, seed: int, store: Path
) -> dict[str, float]:
    """Scaled confidence in every candidate, by its id, of the model trained on the retained data
    and the chosen ones."""
    pool = recipe.splits.retain_pool
    rows = concatenate_datasets([candidates.select(chosen), pool])
    folder = kept_model(
        recipe, rows, [digest(candidates), chosen.tolist(), digest(pool)], seed, store
    )
    path = folder / CONFIDENCES
    if not all_processes(path.exists())[0]:
        losses = losses_by(recipe, recipe.load_model(str(folder)), candidates)
        if recipe.args.process_index == 0:
            write_json(path, dict(zip(candidates["id"][:], scaled_confidence(losses))))
        all_processes(None)  # wait for the file
    return json.loads(path.read_text())


def losses_by(recipe: Recipe, model: nn.Module, rows: Dataset) -> np.ndarray:
    trainer = recipe.trainer_alone(model)
    return sample_features(trainer, recipe.evaluation_data(model, rows))["loss"]
