"""Keeps the names of forgotten persons out of published texts and out of trackers."""
