"""UnlearnTrainer: its steps, the checks before them, its checkpoints and pushes."""

import lazy_loader

# Loaded when they are first asked for. The stub beside this file lists them, for this call and for
# type checkers: what other rooms use of the trainer.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
