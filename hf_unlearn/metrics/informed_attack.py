"""The informed attack: learns from other speakers how a model responds to its training samples.
Pure functions on arrays."""

import numpy as np
from sklearn.ensemble import RandomForestClassifier

# What the attack sees of a sample, from `sample_features.features`.
INFORMED_FEATURES = ("loss", "correctness", "confidence", "entropy", "modified_entropy")
TREES = 100


def informed_scores(
    known: np.ndarray,
    is_member: np.ndarray,
    owners: np.ndarray,
    questioned: np.ndarray,
    questioned_owners: np.ndarray,
    *,
    seed: int = 0,
) -> np.ndarray:
    """How sure a random forest is that each questioned sample was trained on: a score (q,) from 0
    to 1.

    The forest for a speaker's samples is trained without any sample of this speaker, so it can only
    use how the model answers, not who speaks.

    Args:
        known: features (n, f) of samples whose membership is known.
        is_member: (n,), whether each was trained on.
        owners: (n,), the speaker or class of each.
        questioned: features (q, f) of the samples in question.
        questioned_owners: (q,), the speaker or class of each.
        seed: of the forest.

    Raises:
        ValueError: without a questioned speaker, there are no members or nothing but members.
    """
    owners, questioned_owners = np.asarray(owners), np.asarray(questioned_owners)
    features, is_member = np.asarray(known), np.asarray(is_member, bool)
    scores = np.zeros(len(questioned))
    for owner in np.unique(questioned_owners):
        others, questions = owners != owner, questioned_owners == owner
        if len(np.unique(is_member[others])) < 2:
            raise ValueError(
                f"without the samples of {owner} there are no known members and no known "
                "non-members to learn from: give samples of at least one more"
            )
        forest = RandomForestClassifier(TREES, random_state=seed, class_weight="balanced")
        forest.fit(features[others], is_member[others])
        scores[questions] = forest.predict_proba(np.asarray(questioned)[questions])[:, 1]
    return scores
