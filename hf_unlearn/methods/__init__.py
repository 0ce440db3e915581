"""The methods of unlearning, by the name that `UnlearnConfig.method` takes. A new one is one file and one line."""

from .base import Method, Step
from .orthograd import OrthoGrad, orthograd
from .weighted import WeightedSum, finetune, gradient_ascent, gradient_difference

# Each makes a method from an UnlearnConfig.
METHODS = {
    "orthograd": orthograd,
    "gradient_ascent": gradient_ascent,
    "gradient_difference": gradient_difference,
    "finetune": finetune,
}


def build_method(config) -> Method:
    """The method an `UnlearnConfig` asks for, by name or as an instance."""
    if isinstance(config.method, Method):
        return config.method
    if config.method not in METHODS:
        raise ValueError(f"method is {config.method!r}, but must be one of {', '.join(METHODS)}, or a Method instance")
    return METHODS[config.method](config)


__all__ = ["METHODS", "Method", "OrthoGrad", "Step", "WeightedSum", "build_method"]
