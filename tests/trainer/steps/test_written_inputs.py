"""Models that write into their inputs change neither the caller's tensors nor a batch that is used
again."""

import copy

import pytest
import torch
from torch import nn

from tests.trainer.steps.random_models import (
    setting,
    trained,
)


class Writer(nn.Module):
    """Writes into its inputs, in training and in evaluation."""

    def __init__(self, writes: bool):
        super().__init__()
        self.linear, self.writes = nn.Linear(12, 3), writes

    def forward(self, x, labels, more):
        x = x.mul_(0.5) if self.writes else x * 0.5
        x = x + (more["shift"][0].add_(1.0) if self.writes else more["shift"][0] + 1.0)
        loss = nn.functional.cross_entropy(logits := self.linear(x), labels.clone())
        if self.writes:
            labels.fill_(-100)
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize("method", ["orthograd", "scrub", "influence"])
def test_inputs_are_not_written_into(tmp_path, method):
    """Neither into a batch that is used again, nor into the caller's own tensors."""
    generator = torch.Generator().manual_seed(0)
    samples = [
        {"x": torch.randn(1, 12, generator=generator), "labels": torch.tensor([i % 3])}
        for i in range(4)
    ]
    kept = copy.deepcopy(samples)
    weights, outcomes = Writer(False).state_dict(), []

    # Returns the tensors of the samples themselves.
    def collator(rows):
        return {**rows[0], "more": {"shift": [rows[0]["x"]]}}

    for writes in (True, False):
        model = Writer(writes)
        model.load_state_dict(weights)
        trainer, _, step = trained(
            model,
            tmp_path,
            samples[:2],
            samples[2:],
            collator,
            per_device_train_batch_size=1,
            granularity="model",
            gradient_accumulation_steps=2,
            per_device_retain_batch_size=1,
            per_device_eval_batch_size=1,
            max_steps=3,
            method=method,
            remove_unused_columns=False,
            learning_rate=0.1,
        )
        output = trainer.predict(samples)
        outcomes.append((step, torch.tensor(output.label_ids), torch.tensor(output.predictions)))
        assert all(torch.equal(a[name], b[name]) for a, b in zip(samples, kept) for name in a)
    assert outcomes[0][0].norm() > 0
    for writing, plain in zip(*outcomes):
        assert torch.equal(writing, plain)


def test_spec_augment_masks_the_models_copy_of_a_batch(tmp_path):
    """SpecAugment writes into its inputs with freeze_randomness=False; the retain batch that the
    trainer keeps stays as it was collated."""
    model, forget, retain, collator = setting("SpecAugment")
    trainer, _, _ = trained(
        model, tmp_path, forget, retain, collator, freeze_randomness=False, max_steps=2
    )
    for name, values in trainer.training_run.step_runner.retain_batches.batch.items():
        assert {tuple(row.flatten().tolist()) for row in values} == {
            tuple(row.flatten().tolist()) for row in collator(retain)[name]
        }
