"""The recipes, installed as a package of ours: `hf-unlearn run` finds them without a checkout."""
