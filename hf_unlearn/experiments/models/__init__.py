"""The models that a recipe trains besides the unlearned one, and attacks on them."""
