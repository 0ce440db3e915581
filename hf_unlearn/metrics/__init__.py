"""Metrics as pure functions on arrays and texts; one file per kind."""

from .quality import (
    CharacterErrorRate,
    WordErrorRate,
    bootstrap_interval,
    character_errors,
    error_rate,
    word_errors,
)

__all__ = [
    "CharacterErrorRate",
    "WordErrorRate",
    "bootstrap_interval",
    "character_errors",
    "error_rate",
    "word_errors",
]
