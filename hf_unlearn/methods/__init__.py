"""The unlearning methods, by the names that `UnlearnConfig.method` takes.

A new method is one file and one line in `METHODS`.
"""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

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

Setting = bool | int | float | str | None


class MethodConfig(Protocol):
    """The fields of `UnlearnConfig` that choose a method."""

    method: str | Method
    method_kwargs: dict[str, Any] | None
    alpha: float
    granularity: str


# Name -> class or function that makes the method. Its keywords are what `method_kwargs` may hold,
# except those in FIELDS.
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
# Keywords of methods that are fields of UnlearnConfig.
FIELDS = ("alpha", "granularity")

RETRAIN = (
    "method='retrain' does not change this model: it trains a new one on the original training "
    "data without the forget samples. Train it with the plain Trainer, or in a recipe with "
    "`gold: train` (or with `train.py --without_forget true`). Every table compares with it"
)


def names_with(attribute: str) -> list[str]:
    """The names of the methods for which a boolean attribute of `Method` is true.

    It is read from the class, because making a method may need arguments that have no default. A
    function has to make its method with its defaults; without defaults its name is left out.
    """
    return [name for name, make in METHODS.items() if getattr(_example(make), attribute, False)]


def _example(make: Callable[..., Method]) -> type[Method] | Method | None:
    """A class of methods itself, or what a function makes; None if it needs arguments."""
    if isinstance(make, type):
        return make
    needs_arguments = any(map(_is_required, inspect.signature(make).parameters.values()))
    return None if needs_arguments else make()


def build_method(config: MethodConfig) -> Method:
    """Makes the method that an `UnlearnConfig` asks for, by name or as an instance.

    Raises:
        ValueError: there is no such method, it has no such keyword, a keyword without a default is
            missing, or an instance comes with `method_kwargs`.
    """
    kwargs = dict(config.method_kwargs or {})
    if isinstance(config.method, Method):
        if kwargs:
            raise ValueError(
                "method_kwargs is for a method that is given by name: pass these values to the "
                "constructor of your instance"
            )
        return config.method
    if config.method == "retrain":
        raise ValueError(RETRAIN)
    if config.method not in METHODS:
        raise ValueError(
            f"method is {config.method!r}, but must be one of {', '.join(METHODS)}, "
            "or a Method instance"
        )
    keywords = inspect.signature(METHODS[config.method]).parameters
    allowed = [name for name in keywords if name not in FIELDS]
    if unknown := sorted(set(kwargs) - set(allowed)):
        raise ValueError(
            f"method_kwargs has {', '.join(unknown)}, but method={config.method!r} takes "
            f"{', '.join(allowed) or 'none'} ({', '.join(FIELDS)} are fields of their own)"
        )
    settings = method_settings(config)
    missing = [name for name in allowed if _is_required(keywords[name]) and name not in settings]
    if missing:
        raise ValueError(
            f"method={config.method!r} has no default for {', '.join(missing)}: give a value in "
            "method_kwargs"
        )
    return METHODS[config.method](**settings)


def _is_required(keyword: inspect.Parameter) -> bool:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return keyword.default is inspect.Parameter.empty and keyword.kind not in several


def method_settings(config: MethodConfig) -> dict[str, Setting]:
    """The keywords that the method of an `UnlearnConfig` is made with, and their values, defaults
    included.

    For an instance, the keywords of its class that it keeps as attributes of the same names.
    """
    if isinstance(config.method, Method):
        attributes = vars(config.method)
        keywords = inspect.signature(type(config.method)).parameters
        return {
            name: attributes[name]
            for name in keywords
            if name in attributes and isinstance(attributes[name], Setting)
        }
    values = {**{name: getattr(config, name) for name in FIELDS}, **(config.method_kwargs or {})}
    keywords = inspect.signature(METHODS[config.method]).parameters
    return {
        name: values.get(name, keyword.default)
        for name, keyword in keywords.items()
        if name in values or keyword.default is not inspect.Parameter.empty
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
    "names_with",
]
