"""How the trainer evaluates: every sample counts once, in the dataset's order."""
