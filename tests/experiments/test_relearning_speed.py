"""The steps of relearning are counted until all samples are recognised."""

import torch

from hf_unlearn.experiments.models.relearning_speed import relearning_steps


class Linear(torch.nn.Linear):
    def forward(self, x, labels):
        logits = super().forward(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_relearning_counts_the_steps_until_all_samples_are_recognised():
    def steps(weight, learning_rate, max_steps=50):
        model = Linear(1, 2, bias=False)
        model.weight.data = torch.tensor([[weight], [-weight]])
        batch = {"x": torch.tensor([[1.0], [2.0]]), "labels": torch.tensor([0, 0])}
        return relearning_steps(model, batch, learning_rate=learning_rate, max_steps=max_steps)

    assert steps(0.5, 0.1) == 0
    # Adam's steps are of the size of the learning rate: -.25, -.15, -.05, .05
    assert steps(-0.25, 0.1) == 3
    assert steps(-0.25, 0.1, max_steps=2) is None and steps(-0.25, 0.0) is None
