"""Runs recipes: what recipes of every kind of data share, and what a recipe of your own needs."""

import lazy_loader

# Loaded when they are first asked for: the list of recipes needs none of them.
# The stub beside this file lists them, for this call and for type checkers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
