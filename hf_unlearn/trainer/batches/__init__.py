"""The forget and retain batches: what is loaded when, and by which random numbers."""
