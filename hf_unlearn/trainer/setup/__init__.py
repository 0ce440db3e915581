"""The model made ready for training: adapters, precision, accelerate and DeepSpeed."""
