"""What is compared, as the YAML file for `hf-unlearn compare` says it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from ...report.tasks import ACCURACY, ERROR_RATES
from ...yaml_files import PlainScalar, as_declared, read_yaml

GREATER_IS_BETTER = {
    **dict.fromkeys(ERROR_RATES, False),
    **dict.fromkeys(ACCURACY, True),
    "loss": False,
}
# What the recipe's command line is given: its types are the recipe's to know.
AS_WRITTEN = ("tune_on", "report_on", "methods", "match", "vary", "options")


@dataclass(frozen=True)
class Comparison:
    """What is compared, as the YAML file says it.

    recipe, config: the recipe's script, and the configuration that all runs share.
    output_dir: where the cells, `runs.csv`, `table.md` and `frontier.png` go.
    target: the option that says what is forgotten (`forget_speakers`).
    tune_on, report_on: its values to choose each method's setting on, and those to report; they
        share none.
    methods: name -> settings to try, each a dict of options; as many for every method.
    score: `<split>_<metric>` of the unlearned model. Without `match`, of the runs that reached
        `stop_when`, as they ended.
    greater_is_better: of the score; without it, true for accuracies and false for error rates and
        losses.
    match: what is forgotten, `<split>_<metric>` -> levels: numbers, or `retrained` for the
        retrained model's own. The score is then read off a run's checks at each level, so that
        methods are compared at equal forgetting. A setting is chosen for the first level; what it
        comes to at the others is reported besides.
    seeds: of the reported runs; settings are chosen with the first.
    vary: option -> values; for each combination, everything is done anew.
    known: an earlier `runs.csv`, whose cells are not run again: it has all that the table and the
        plot need. A cell is known by its options and the path of the configuration, so take out
        what a change of either file's contents, of the data or of a model has made obsolete.
    options: further options of every run; `{target}` and `{seed}` in them stand for the run's own.
    processes: runs at the same time.
    """

    recipe: str
    config: str
    output_dir: str
    target: str
    tune_on: list
    report_on: list
    methods: dict
    score: str
    match: dict = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    vary: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    known: str | None = None
    greater_is_better: bool | None = None
    processes: int = 1

    def __post_init__(self):
        self._check_forms()
        tried = {method: len(settings) for method, settings in self.methods.items()}
        if len(set(tried.values())) != 1 or not all(tried.values()):
            raise ValueError(
                "a fair comparison tries as many settings of every method, at least one, but got "
                f"{tried}"
            )
        if both := set(self.tune_on) & set(self.report_on):
            raise ValueError(
                f"{', '.join(map(str, both))} in tune_on and report_on: report what "
                "was not tuned on"
            )
        if len(self.match) > 1:
            raise ValueError(
                f"match speaks of {', '.join(self.match)}: give one metric, with all its levels"
            )
        metric = self.score.rpartition("_")[2]
        if self.greater_is_better is None and metric not in GREATER_IS_BETTER:
            raise ValueError(
                f"whether a greater {metric} is a better score is not known, only that of "
                f"{', '.join(GREATER_IS_BETTER)}: set greater_is_better"
            )

    def _check_forms(self):
        for name in ("tune_on", "report_on", "seeds"):
            if not isinstance(getattr(self, name), list | tuple):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, but must be a list: [first, second]"
                )
        for name in ("methods", "match", "vary"):
            lists = getattr(self, name)
            if not isinstance(lists, dict) or not all(
                isinstance(values, list | tuple) for values in lists.values()
            ):
                raise ValueError(
                    f"{name} is {lists!r}, but must hold a list for each key: "
                    f"{{key: [first, second]}}"
                )
        given = [
            self.options,
            self.vary,
            *(setting for settings in self.methods.values() for setting in settings),
        ]
        for options in given:
            if not isinstance(options, dict):
                raise ValueError(f"{options!r} is no set of options: write {{option: value}}")
            if empty := [name for name, value in options.items() if _is_empty(value)]:
                raise ValueError(f"{', '.join(empty)} is empty: give a value, or leave it out")
        for metric, levels in self.match.items():
            for level in levels:
                if level != "retrained" and not _is_number(level):
                    raise ValueError(
                        f"match: {level!r} is no level of {metric}: give a number, or retrained"
                    )

    @property
    def forgotten(self) -> str:
        """The metric that says how much is forgotten: the horizontal axis of the frontier."""
        return next(iter(self.match), "forget_" + self.score.rpartition("_")[2])

    @property
    def scores(self) -> list[str]:
        """The columns by which methods are compared, one for each level of `match`."""
        return [
            f"{self.score} at {level}" for levels in self.match.values() for level in levels
        ] or [self.score]

    def best(self, values: Iterable, key: Callable | None = None):
        """The one with the best score: a score itself, or what `key` gives the score of."""
        metric = self.score.rpartition("_")[2]
        greater = (
            GREATER_IS_BETTER[metric] if self.greater_is_better is None else self.greater_is_better
        )
        return (max if greater else min)(values, key=key)

    @classmethod
    def read(cls, path: str | Path) -> "Comparison":
        """Raises ValueError: no such file, a key too many or too few, a value of another type."""
        given = read_yaml(path)
        known = {option.name for option in fields(cls)}
        if set(given) - known:
            raise ValueError(
                f"unknown in {path}: {', '.join(sorted(set(given) - known))}; known: "
                f"{', '.join(known)}"
            )
        kept = {name: value or {} for name, value in given.items() if name in AS_WRITTEN}
        typed = as_declared(
            {name: value for name, value in given.items() if name not in kept}, [cls], path
        )
        try:
            return cls(**typed, **kept)
        except TypeError as error:
            raise ValueError(f"{path}: {error}") from error


def _is_empty(value) -> bool:
    return value in (None, []) or isinstance(value, PlainScalar) and not value


def _is_number(level) -> bool:
    try:
        float(level)
    except (TypeError, ValueError):
        return False
    return True
