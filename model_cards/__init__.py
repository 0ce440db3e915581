"""Installed as hf_unlearn.model_cards, so that the card template is found without the
repository."""
