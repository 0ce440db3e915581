"""What the numbers of the membership attacks mean, and which values are wanted.

Apart from the attacks themselves, so that reports need no scikit-learn.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """One number that an attack gives.

    Attributes:
        meaning: what the number says.
        wanted: the best value, or "up" if higher is better, or "" if the number only describes the
            data.
        target: the value to reach when no retrained model is known; None if there is none.
    """

    meaning: str
    wanted: str
    target: float | None


def _score_entries(attack: str, auc_meaning: str, attacker: str) -> dict[str, Attack]:
    """The entries of ATTACKS for what `membership.attack_rates` returns."""
    return {
        f"{attack}_auc": Attack(auc_meaning, "0.5", 0.5),
        f"{attack}_tpr_at_1_fpr": Attack(
            f"forgotten samples (%) that {attacker} finds at a false positive rate of 1 %",
            "1",
            1.0,
        ),
        f"{attack}_tpr_at_0.1_fpr": Attack("the same at 0.1 %", "0.1", 0.1),
        f"{attack}_tpr_at_lowest_fpr": Attack("the same at lowest_fpr", "lowest_fpr", None),
    }


# What the SVC attacks see of a sample. A token is predicted from the true ones before it.
SVC_FEATURE_MEANINGS = {
    "correctness": "whether the prediction is right (utterances: the share of right tokens)",
    "confidence": "the probability of the true class (utterances: mean over tokens)",
    "entropy": "the entropy of the prediction (utterances: mean over tokens)",
    "modified_entropy": "the modified entropy (utterances: mean over tokens)",
    "probability": "all class probabilities (not for utterances)",
}


def _svc_entry(feature: str) -> Attack:
    seen = SVC_FEATURE_MEANINGS[feature]
    meaning = f"forgotten samples (%) that an SVC classifies as unseen, by {seen}"
    return Attack(meaning, wanted="up", target=None)


ATTACKS = {
    "lowest_fpr": Attack(
        "lowest false positive rate (%) that can be measured: 100 / number of unseen samples",
        wanted="",
        target=None,
    ),
    **_score_entries(
        "loss", "AUC of telling forgotten from unseen samples by their lower loss", "the loss"
    ),
    **{f"svc_{feature}": _svc_entry(feature) for feature in SVC_FEATURE_MEANINGS},
    **_score_entries(
        "lira",
        "AUC of telling forgotten from unseen samples by LiRA (online, with the run's shadow "
        "models)",
        "LiRA",
    ),
}
