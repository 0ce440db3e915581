"""The plan of a comparison: the options in the YAML file of `hf-unlearn compare`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from ...files.yaml_files import PlainScalar, as_declared, read_yaml
from ...report.tasks import ACCURACY, ERROR_RATES, metric_of
from .keys import ComparisonKeys

T = TypeVar("T")
GREATER_IS_BETTER = {
    **dict.fromkeys(ERROR_RATES, False),
    **dict.fromkeys(ACCURACY, True),
    "f1_macro": True,
    "loss": False,
}
# Options that become arguments of the recipe, which knows their types.
AS_WRITTEN = ("tune_on", "report_on", "methods", "match", "vary", "options")


@dataclass(frozen=True, kw_only=True)
class Comparison(ComparisonKeys):
    """What is compared, as the YAML file says it. `ComparisonKeys` declares its fields."""

    def __post_init__(self) -> None:
        self._check_lists()
        self._check_options()
        tried = {method: len(settings) for method, settings in self.methods.items()}
        if len(set(tried.values())) != 1 or not all(tried.values()):
            raise ValueError(
                "a fair comparison tries the same number of settings for every method, and at "
                f"least one, but got {tried}"
            )
        if not self.tune_on and max(tried.values()) > 1:
            raise ValueError(
                "tune_on is empty, but the methods have several settings: name a target on which "
                "to choose one, or give each method one setting"
            )
        if both := set(self.tune_on) & set(self.report_on):
            raise ValueError(
                f"{', '.join(map(str, both))} in tune_on and report_on: report targets that no "
                "setting was chosen on"
            )
        if len(self.match) > 1:
            raise ValueError(
                f"match names {', '.join(self.match)}: give one metric, with all its levels"
            )
        metric = metric_of(self.score)
        if self.greater_is_better is None and metric not in GREATER_IS_BETTER:
            raise ValueError(
                f"whether a greater {metric} is a better score is known only of "
                f"{', '.join(GREATER_IS_BETTER)}: set greater_is_better"
            )

    def _check_lists(self) -> None:
        """Refuses a single value in place of a list, and levels that are not numbers."""
        for name in ("tune_on", "report_on", "seeds"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple):
                raise ValueError(f"{name} is {value!r}, but must be a list: [first, second]")
        for name in ("methods", "match", "vary"):
            value = getattr(self, name)
            if not isinstance(value, dict) or not all(
                isinstance(values, list | tuple) for values in value.values()
            ):
                raise ValueError(
                    f"{name} is {value!r}, but must hold a list for each key: "
                    "{key: [first, second]}"
                )
        for metric, levels in self.match.items():
            for level in levels:
                if level != "retrained" and not _is_number(level):
                    raise ValueError(
                        f"match: {level!r} is not a level of {metric}: give a number or 'retrained'"
                    )

    def _check_options(self) -> None:
        """Refuses options without a value."""
        settings = (setting for settings in self.methods.values() for setting in settings)
        for options in (self.options, self.vary, *settings):
            if not isinstance(options, dict):
                raise ValueError(f"{options!r} is not a set of options: write {{option: value}}")
            if empty := [name for name, value in options.items() if _is_empty(value)]:
                raise ValueError(f"{', '.join(empty)} is empty: give a value, or leave it out")

    @property
    def forgotten(self) -> str:
        """The metric of what is forgotten: the horizontal axis of the frontier."""
        return next(iter(self.match), "forget_" + metric_of(self.score))

    @property
    def scores(self) -> list[str]:
        """The columns by which methods are compared, one for each level of `match`."""
        return [
            f"{self.score} at {level}" for levels in self.match.values() for level in levels
        ] or [self.score]

    def best(self, values: Iterable[T], key: Callable[[T], float] | None = None) -> T:
        """The value with the best score; `key` returns a value's score where it is not one."""
        metric = metric_of(self.score)
        greater = (
            GREATER_IS_BETTER[metric] if self.greater_is_better is None else self.greater_is_better
        )
        return (max if greater else min)(values, key=key)

    @classmethod
    def read(cls, path: str | Path) -> "Comparison":
        """Reads a YAML file.

        Raises:
            ValueError: the file does not exist, a key is unknown or missing, or a value has the
                wrong type.
        """
        content = read_yaml(path)
        options = {option.name for option in fields(cls)}
        if set(content) - options:
            raise ValueError(
                f"unknown in {path}: {', '.join(sorted(set(content) - options))}; known: "
                f"{', '.join(options)}"
            )
        kept = {
            name: {} if value is None else value
            for name, value in content.items()
            if name in AS_WRITTEN
        }
        typed = as_declared(
            {name: value for name, value in content.items() if name not in kept}, [cls], path
        )
        try:
            return cls(**typed, **kept)
        except TypeError as error:
            raise ValueError(f"{path}: {error}") from error


def _is_empty(value: object) -> bool:
    return value in (None, []) or isinstance(value, PlainScalar) and not value


def _is_number(level: object) -> bool:
    try:
        float(level)
    except (TypeError, ValueError):
        return False
    return True
