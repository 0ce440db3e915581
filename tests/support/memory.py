"""Models that run out of memory."""

import torch
from transformers import TrainerCallback


class OutOfMemory:
    """Replaces a model's forward pass by one that runs out of memory for large batches.

    Args:
        largest: the largest batch that fits.
        only_of: samples; batches of others always fit.
    """

    def __init__(self, model, largest: int, only_of=None):
        self.forward, self.largest = model.forward, largest
        self.only_of, self.fails = only_of, False
        model.forward = self

    def __call__(self, input_features=None, labels=None, **more):
        features = input_features
        mine = self.only_of is None or any(
            torch.equal(features[0], s["input_features"]) for s in self.only_of
        )
        if self.fails and mine and len(features) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.forward(input_features=features, labels=labels, **more)


class Fails(TrainerCallback):
    """Lets memory run out from the second step on, when weights and moments have changed."""

    def __init__(self, model):
        self.model = model

    def on_step_begin(self, args, state, control, **kwargs):
        self.model.fails = state.global_step >= 1
