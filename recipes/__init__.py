"""The recipes. They are installed with the package, so `hf-unlearn run` needs no checkout."""
