"""The keys of the YAML file of `hf-unlearn compare`, and what each is for. The command line reads
them without loading torch."""

import textwrap

KEYS = {
    "recipe": "the recipe's script: a path, or a name that `hf-unlearn recipes` lists (digits)",
    "config": "the configuration that all runs share: a path, or a name (digits/digits)",
    "output_dir": "where the runs, runs.csv, table.md and frontier.png go",
    "target": "the option that says what is forgotten, such as forget_speakers",
    "tune_on": "values of the target on which each method's setting is chosen",
    "report_on": "values of the target to report; none may also be in tune_on",
    "methods": "method: the settings to try, each a set of options; as many for every method",
    "score": "<split>_<metric> of the unlearned model. Without match, it is taken at the end of "
    "the runs that reached stop_when",
    "match": "<split>_<metric>: levels of forgetting, which are numbers or `retrained` for the "
    "retrained model's value. The score is then read off a run's checks at each level, so that "
    "methods are compared at equal forgetting. Settings are chosen at the first level; the others "
    "are reported as well",
    "greater_is_better": "whether a greater score is better; known for accuracies, error rates and "
    "losses",
    "seeds": "seeds of the reported runs; settings are chosen with the first",
    "vary": "option: values; the whole comparison is made for each combination",
    "options": "further options of all runs, in which {target} and {seed} stand for the run's own",
    "known": "runs.csv of an earlier comparison. Its runs are not repeated; the tables and the "
    "plot use its rows. A run is identified by its options and the path of the "
    "configuration, so remove the rows that are out of date after a change of the configuration, "
    "the data or a model",
    "processes": "how many runs at the same time",
}


def keys_text(width: int = 100) -> str:
    """The keys and their meanings, for a terminal."""
    indent = 2 + max(map(len, KEYS)) + 2
    return "\n".join(
        textwrap.fill(f"  {name:<{indent - 2}}{text}", width=width, subsequent_indent=" " * indent)
        for name, text in KEYS.items()
    )
