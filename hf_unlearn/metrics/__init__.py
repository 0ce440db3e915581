"""Metrics: pure functions on arrays and texts, one file per kind."""

import importlib
from typing import Any

# Loaded when they are first asked for, because some need jiwer, evaluate or scikit-learn.
_MODULE_OF = {
    "ATTACKS": "attack_table",
    "Attack": "attack_table",
    "CharacterErrorRate": "quality",
    "WordErrorRate": "quality",
    "accuracy": "quality",
    "accuracy_of_classes": "quality",
    "adaptive_unlearning_score": "scores",
    "bootstrap_interval": "quality",
    "character_errors": "quality",
    "earth_movers_distance": "distances",
    "error_rate": "quality",
    "f1_macro": "quality",
    "global_unlearning_metric": "scores",
    "informed_scores": "informed_attack",
    "lira_scores": "membership",
    "loss_attack": "membership",
    "matched_pairs": "distances",
    "separation": "distances",
    "share_above": "distances",
    "svc_attacks": "membership",
    "unlearning_impact_score": "scores",
    "word_errors": "quality",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
