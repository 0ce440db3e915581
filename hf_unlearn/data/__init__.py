"""Data whose owners are known: speech by speaker and images by class, and their splits."""

import lazy_loader

# Loaded from `speech` when they are first asked for: images need neither librosa nor soundfile.
# The stub beside this file lists them, for this call and for type checkers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
