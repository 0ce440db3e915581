"""hf_unlearn: make Hugging Face models forget chosen training data, and keep everything else."""

import lazy_loader

__version__ = "0.1.0.dev0"

# Loaded when they are first asked for: the command line answers without torch and transformers.
# The stub beside this file lists them, for this call and for type checkers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
