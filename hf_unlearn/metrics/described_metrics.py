"""Functions of metrics that say what they compute. Trainer's `compute_metrics` may be one of them,
or any other function, of which nothing is known before it is called."""

import functools
import inspect
from collections.abc import Callable, Sequence

from transformers import EvalPrediction

from .scales import GIVEN, PERCENT


class DescribedMetrics:
    """A `compute_metrics` that says what it computes. The defaults hold for any other function.

    Attributes:
        metric_names: the keys of its result, which stopping rules are checked against; None if they
            are not known.
        scale: of its rates, PERCENT or GIVEN.
        needs_texts: whether it compares generated texts. Without it, a trainer would find only at
            its first evaluation that it got none.
        scoring: how texts are compared (see `evaluation.asr_metrics`); None for other tasks.
    """

    metric_names: Sequence[str] | None = None
    scale: str = GIVEN
    needs_texts: bool = False
    scoring: dict[str, str] | None = None

    def __call__(self, evaluated: EvalPrediction) -> dict[str, float]:
        raise NotImplementedError


class PercentMetrics(DescribedMetrics):
    """A function of metrics that are all in percent.

    Args:
        function: the `compute_metrics` to describe.
        metric_names: the keys of its result.
    """

    scale = PERCENT

    def __init__(
        self, function: Callable[[EvalPrediction], dict[str, float]], metric_names: Sequence[str]
    ):
        # Gives it the function's name and docstring.
        functools.update_wrapper(self, function)
        self._function, self.metric_names = function, metric_names

    def __call__(self, evaluated: EvalPrediction) -> dict[str, float]:
        return self._function(evaluated)

    def __reduce__(self) -> str:
        # Pickled by its name, as the function would be.
        return self._function.__qualname__


def in_percent(*metric_names: str) -> Callable[[Callable], PercentMetrics]:
    """Decorates a `compute_metrics` with these keys, whose rates are all in percent."""
    return functools.partial(PercentMetrics, metric_names=metric_names)


def description_of(compute_metrics: Callable | None) -> DescribedMetrics:
    """What is known of a `compute_metrics`, also if another function wraps it with
    `functools.wraps`."""
    inner = compute_metrics and inspect.unwrap(
        compute_metrics, stop=lambda function: isinstance(function, DescribedMetrics)
    )
    return inner if isinstance(inner, DescribedMetrics) else DescribedMetrics()
