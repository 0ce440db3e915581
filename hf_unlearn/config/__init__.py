"""The training arguments, extended by the options of unlearning."""

from .conversion import as_unlearn_config
from .suggestions import with_suggestions
from .unlearn_config import UnlearnConfig

__all__ = ["UnlearnConfig", "as_unlearn_config", "with_suggestions"]
