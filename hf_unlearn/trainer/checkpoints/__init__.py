"""Checkpoints: saved whole or not at all, and which run they belong to."""
