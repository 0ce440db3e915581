"""Audits a run: checks whether the forgotten data can still be reached through any "door" (numeric
types, decoding, fine-tuning, attacks)."""

import lazy_loader

# Loaded when they are first asked for: the command line only reads the settings.
# The stub beside this file lists them, for this call and for type checkers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
