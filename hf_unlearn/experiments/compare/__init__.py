"""Compares methods through a recipe: all are tuned with the same effort, on targets that are not
reported.

    hf-unlearn compare FILE.yaml

A cell is one run of the recipe, in its own process and folder. A cell whose folder has a
`results.json` is done, so an interrupted comparison continues where it stopped. On another machine
it continues from the rows of an earlier `runs.csv` (`known`). Models that the recipe trains
(original, retrained, shadow models), and what was measured of the original and the retrained model,
are kept in `output_dir/models`, unless `options` set another `models_dir`, and all cells share
them.
"""

import lazy_loader

# Loaded when they are first asked for: the command line only reads the keys of a comparison.
# The stub beside this file lists them, for this call and for type checkers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
