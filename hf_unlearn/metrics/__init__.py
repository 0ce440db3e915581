"""Metrics: pure functions on arrays and texts, one file per kind."""

from .distances import earth_movers_distance, matched_pairs, separation, share_above
from .informed import informed_scores
from .privacy import ATTACKS, Attack, lira_scores, loss_attack, svc_attacks
from .quality import (
    CharacterErrorRate,
    WordErrorRate,
    accuracy,
    accuracy_of_classes,
    bootstrap_interval,
    character_errors,
    error_rate,
    f1_macro,
    word_errors,
)
from .scores import (
    adaptive_unlearning_score,
    global_unlearning_metric,
    unlearning_impact_score,
)

__all__ = [
    "ATTACKS",
    "Attack",
    "CharacterErrorRate",
    "WordErrorRate",
    "accuracy",
    "accuracy_of_classes",
    "adaptive_unlearning_score",
    "bootstrap_interval",
    "character_errors",
    "earth_movers_distance",
    "error_rate",
    "f1_macro",
    "global_unlearning_metric",
    "informed_scores",
    "lira_scores",
    "loss_attack",
    "matched_pairs",
    "separation",
    "share_above",
    "svc_attacks",
    "unlearning_impact_score",
    "word_errors",
]
