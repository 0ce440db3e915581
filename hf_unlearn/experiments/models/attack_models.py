"""Membership inference attacks on the models of a run, for every kind of data."""

import numpy as np
from transformers.utils import logging

from ...evaluation import sample_features
from ...metrics.membership import (
    attack_rates,
    lira_scores,
    loss_attack,
    lowest_fpr,
    scaled_confidence,
    svc_attacks_on,
)
from ...trainer import UnlearnTrainer
from ..recipe import Recipe
from .shadow_models import ShadowModels

logger = logging.get_logger(__name__)


def attack(
    recipe: Recipe,
    trainer: UnlearnTrainer,
    shadows: ShadowModels | None,
    features: dict[str, dict[str, np.ndarray]],
) -> dict[str, float | None]:
    """Attacks the trainer's model: the entries of ATTACKS that the run's data and models allow.
    Every process has to call it.

    The attacks tell forgotten training samples from unseen samples of the same speakers or classes
    (from the test split where single samples are forgotten). For a model that has diverged the
    result is `lowest_fpr` alone, with a warning, so that the run's other results are kept.

    Args:
        features: the samples' features (see `sample_features`) of the splits for which this model's
            evaluation has already computed them.
    """
    unseen = recipe.unseen_split
    splits = {"forget", unseen, "retain", "test"} & set(trainer.eval_dataset)
    seen = {
        name: features[name]
        if name in features
        else sample_features(trainer, trainer.eval_dataset[name])
        for name in sorted(splits)
    }
    rates: dict[str, float | None] = {"lowest_fpr": lowest_fpr(len(seen[unseen]["loss"]))}
    if not all(np.isfinite(split["loss"]).all() for split in seen.values()):
        logger.warning("No membership attacks: the model's outputs are not all finite.")
        return rates
    rates |= loss_attack(seen["forget"]["loss"], seen[unseen]["loss"])
    if "test" in seen:
        rates |= svc_attacks_on(seen["retain"], seen["test"], seen["forget"])
    if shadows is not None:
        losses = {name: seen[name]["loss"] for name in ("forget", unseen)}
        rates |= attack_rates("lira", *lira(recipe, shadows, losses))
    return rates


def lira(recipe: Recipe, shadows: ShadowModels, losses: dict[str, np.ndarray]) -> list[np.ndarray]:
    """LiRA's scores of the samples of some splits.

    The splits are scored together: standard deviations estimated for each split would differ, and
    thereby tell the splits apart.

    Args:
        losses: {split: losses (n,) of its evaluated samples under the attacked model}.

    Returns:
        The scores (n,) of each split.
    """
    evaluated = recipe.splits.evaluation(recipe.data.max_eval_samples)
    columns = [shadows.columns[name] for split in losses for name in evaluated[split]["id"][:]]
    confidences = scaled_confidence(np.concatenate(list(losses.values())))
    scores = lira_scores(
        confidences, shadows.confidences[:, columns], shadows.trained[:, columns], online=True
    )
    return np.split(scores, np.cumsum([len(split) for split in losses.values()])[:-1])
