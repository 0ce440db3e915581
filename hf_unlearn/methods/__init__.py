"""The methods of unlearning, by the name that `UnlearnConfig.method` takes. A new one is one file
and one line."""

import inspect

from .base import Method, Preparation, Step
from .classification import BoundaryShrink, Duck
from .masks import SalUn, Scissorhands
from .metric import OrthoGradMetric
from .nullspace import PGU
from .one_shot import Fisher, Influence
from .orthograd import OrthoGrad
from .relabel import RandomLabel
from .surgery import AGEM, GdrGma, OrthoGradMean, PCGrad
from .teacher import NPO, BadTeacher, Scrub
from .weighted import L1Sparse, WeightedSum, finetune, gradient_ascent, gradient_difference

# What makes each method. Its keywords are what `method_kwargs` may hold, but for those that are
# fields of UnlearnConfig.
METHODS = {
    "orthograd": OrthoGrad,
    "orthograd_mean": OrthoGradMean,
    "orthograd_metric": OrthoGradMetric,
    "gradient_ascent": gradient_ascent,
    "gradient_difference": gradient_difference,
    "finetune": finetune,
    "l1_sparse": L1Sparse,
    "random_label": RandomLabel,
    "scrub": Scrub,
    "bad_teacher": BadTeacher,
    "npo": NPO,
    "salun": SalUn,
    "scissorhands": Scissorhands,
    "gdr_gma": GdrGma,
    "pcgrad": PCGrad,
    "agem": AGEM,
    "pgu": PGU,
    "duck": Duck,
    "boundary_shrink": BoundaryShrink,
    "fisher": Fisher,
    "influence": Influence,
}
FIELDS = ("alpha", "granularity")  # keywords that have a field of UnlearnConfig

RETRAIN = (
    "method='retrain' is no change of this model but a new one, trained without what is to be "
    "forgotten, and takes the "
    "original training data: train it with the plain Trainer, or in a recipe by `gold: train` (or "
    "its train.py "
    "--without_forget true), where it is the reference of every table"
)


def build_method(config) -> Method:
    """The method an `UnlearnConfig` asks for, by name or as an instance.

    Raises:
        ValueError: there is no such method, or it has no such keyword.
    """
    given = dict(config.method_kwargs or {})
    if isinstance(config.method, Method):
        if given:
            raise ValueError(
                "method_kwargs is for a method by name: give an instance its values "
                "when you make it"
            )
        return config.method
    if config.method == "retrain":
        raise ValueError(RETRAIN)
    if config.method not in METHODS:
        raise ValueError(
            f"method is {config.method!r}, but must be one of {', '.join(METHODS)}, "
            "or a Method instance"
        )
    known = inspect.signature(METHODS[config.method]).parameters
    own = [name for name in known if name not in FIELDS]
    if unknown := sorted(set(given) - set(own)):
        raise ValueError(
            f"method_kwargs has {', '.join(unknown)}, but method={config.method!r} knows "
            f"{', '.join(own) or 'none'} "
            f"({', '.join(FIELDS)} are fields of their own)"
        )
    return METHODS[config.method](**method_settings(config))


def method_settings(config) -> dict[str, bool | int | float | str | None]:
    """What the method of an `UnlearnConfig` works with, its defaults among it: the keywords that
    make it, and their values.

    Of an instance, those that it keeps as attributes of the same names.
    """
    if isinstance(config.method, Method):
        kept = vars(config.method)
        known = [name for name in inspect.signature(type(config.method)).parameters if name in kept]
        return {
            name: kept[name]
            for name in known
            if isinstance(kept[name], bool | int | float | str | None)
        }
    given = {**{name: getattr(config, name) for name in FIELDS}, **(config.method_kwargs or {})}
    known = {
        name: keyword.default
        for name, keyword in inspect.signature(METHODS[config.method]).parameters.items()
    }
    return {
        name: given.get(name, default)
        for name, default in known.items()
        if name in given or default is not inspect.Parameter.empty
    }


__all__ = [
    "METHODS",
    "Method",
    "OrthoGrad",
    "Preparation",
    "Step",
    "WeightedSum",
    "build_method",
    "method_settings",
]
