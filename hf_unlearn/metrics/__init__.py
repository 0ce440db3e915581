"""Metrics: pure functions on arrays and texts, one file per kind."""

import lazy_loader

# Loaded when they are first asked for, because some need jiwer, evaluate or scikit-learn.
# The stub beside this file lists them, for this call and for type checkers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
