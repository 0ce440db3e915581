"""The models that a recipe trains beside the unlearned one, and attacks on them."""
