"""Computes once what training does not change: the frozen first part of a model."""
