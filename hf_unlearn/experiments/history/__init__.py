"""What earlier requests made the model forget that a run starts from."""
