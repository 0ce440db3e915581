"""What each option of a recipe affects. Runs share models and measurements in
`models_dir` only if all options that affect these are equal."""

import enum
import typing


class Affects(enum.Flag):
    """What the value of an option affects.

    It is part of the option's type: `attacks: Annotated[bool, Affects.MEASUREMENTS]`. An option
    without it affects both. So if somebody forgets to mark a new option, runs repeat some work, but
    none reads a result that was computed with another value.
    """

    # only which model is used, how it unlearns, or what else the run does
    NEITHER = 0
    # the weights of the models that the recipe trains
    TRAINED_MODELS = enum.auto()
    # what is measured of a model with the same weights
    MEASUREMENTS = enum.auto()


def options_affecting(what: Affects, options: object) -> dict[str, typing.Any]:
    """{name: value} of the options that affect `what`.

    Args:
        what: TRAINED_MODELS or MEASUREMENTS.
        options: an instance of a dataclass.
    """
    # HfArgumentParser passes a field's metadata on to argparse, which refuses further keys. It
    # ignores what `Annotated` adds to a type.
    types = typing.get_type_hints(type(options), include_extras=True)
    return {
        name: value for name, value in vars(options).items() if what in _effects(types.get(name))
    }


def _effects(kind: object) -> Affects:
    """What an option of this type affects; both, if the type does not say."""
    notes = getattr(kind, "__metadata__", ())
    both = Affects.TRAINED_MODELS | Affects.MEASUREMENTS
    return next((note for note in notes if isinstance(note, Affects)), both)
