"""The keys of the YAML file of `hf-unlearn compare`, and what each is for. The command line reads
them without loading torch."""

import textwrap
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any


def _key(meaning: str, default: Any = MISSING, *, factory: Callable[[], Any] = MISSING) -> Any:
    """A field of `ComparisonKeys`; required without a default."""
    return field(default=default, default_factory=factory, metadata={"help": meaning})


@dataclass(frozen=True, kw_only=True)
class ComparisonKeys:
    """The keys, with their types. `compare.plan.Comparison` checks and interprets the values."""

    recipe: str = _key(
        "the recipe's script: a path, or a name that `hf-unlearn recipes` lists (digits)"
    )
    config: str = _key("the configuration that all runs share: a path, or a name (digits/digits)")
    output_dir: str = _key("where the runs, runs.csv, table.md and frontier.png go")
    target: str = _key("the option that says what is forgotten, such as forget_speakers")
    tune_on: list = _key(
        "values of the target on which each method's setting is chosen; [] where each has only one"
    )
    report_on: list = _key("values of the target to report; none may also be in tune_on")
    methods: dict = _key(
        "method: the settings to try, each a set of options; as many for every method"
    )
    score: str = _key(
        "<split>_<metric> of the unlearned model. Without match, it is taken at the end of the "
        "runs that reached stop_when"
    )
    match: dict = _key(
        "<split>_<metric>: levels of forgetting, which are numbers or `retrained` for the "
        "retrained model's value. The score is then read off a run's checks at each level, so "
        "that methods are compared at equal forgetting. Settings are chosen at the first level; "
        "the others are reported as well",
        factory=dict,
    )
    greater_is_better: bool | None = _key(
        "whether a greater score is better; known for accuracies, error rates and losses", None
    )
    seeds: list[int] = _key(
        "seeds of the reported runs; settings are chosen with the first", factory=lambda: [0]
    )
    vary: dict = _key(
        "option: values; the whole comparison is made for each combination", factory=dict
    )
    options: dict = _key(
        "further options of all runs, in which {target} and {seed} stand for the run's own",
        factory=dict,
    )
    known: str | None = _key(
        "runs.csv of an earlier comparison. Its runs are not repeated; the tables and the plot use "
        "its rows. A run is identified by its options and the path of the configuration, so remove "
        "the rows that are out of date after a change of the configuration, the data or a model",
        None,
    )
    processes: int = _key("how many runs at the same time", 1)


def keys_text(width: int = 100) -> str:
    """The keys and their meanings, for a terminal."""
    keys = fields(ComparisonKeys)
    indent = 2 + max(len(key.name) for key in keys) + 2
    return "\n".join(
        textwrap.fill(
            f"  {key.name:<{indent - 2}}{key.metadata['help']}",
            width=width,
            subsequent_indent=" " * indent,
        )
        for key in keys
    )
