"""Samples of a batch told apart: losses, per-sample gradients, padding, several processes."""
