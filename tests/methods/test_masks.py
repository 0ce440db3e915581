"""Methods that select weights, compared with plain implementations of their formulas."""

import copy

import pytest
import torch

from hf_unlearn.methods import METHODS
from hf_unlearn.methods.masks import masks_of_largest
from hf_unlearn.per_sample.reference import sample_gradient
from tests.methods.formulas import Remember, agreeing, conflicting, flat
from tests.support.tiny import collate_images, images, make_trainer, tiny_vit


def test_scissorhands_never_forgets_less(tmp_path):
    """Compares its quadratic programme with a search for the smallest multiple of u."""
    u, r = conflicting()
    method = METHODS["scissorhands"](lam=0.05, margin=0.5)
    g = flat(r) - 0.05 * flat(u)
    assert g @ -flat(u) < 0
    grid = torch.linspace(0.5, 5, 100_001, dtype=torch.float64)
    enough = (g[None] - grid[:, None] * flat(u)) @ -flat(u) >= 0
    expected = g - grid[enough][0] * flat(u)
    torch.testing.assert_close(
        flat(method.combine(u, r, torch.zeros(()))), expected, rtol=1e-3, atol=1e-3
    )
    u, r = agreeing()
    torch.testing.assert_close(
        flat(method.combine(u, r, torch.zeros(()))), flat(r) - 0.05 * flat(u)
    )


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
def test_masks_hold_the_largest_values(share):
    values = [torch.randn(20, 30).abs(), torch.randn(7).abs(), torch.zeros(5)]
    masks = masks_of_largest(values, share)
    flat_values, flat_mask = flat(values), flat(masks)
    count = min(int(share * len(flat_values)), 607)
    assert int(flat_mask.sum()) == count
    assert set(flat_values.argsort(descending=True)[:count].tolist()) == set(
        flat_mask.nonzero()[:, 0].tolist()
    )


def test_salun_changes_only_the_salient_half(tmp_path):
    model = tiny_vit()
    expected = copy.deepcopy(model).eval()
    gradients = sample_gradient(
        expected, expected(**collate_images(images(6))).loss, list(expected.parameters())
    )
    threshold = flat(gradients).abs().median()
    trainer = make_trainer(
        model,
        tmp_path,
        forget=images(6),
        retain=images(6, seed=2),
        collator=collate_images,
        method="salun",
        per_device_train_batch_size=4,
    )
    before = [p.detach().clone() for p in model.parameters()]
    trainer.train()
    for p, old, gradient in zip(model.parameters(), before, gradients):
        # At the threshold, rounding decides.
        clear = (gradient.abs() - threshold).abs() > 1e-6
        assert torch.equal((p != old) & clear, (gradient.abs() > threshold) & clear & (p != old))
    changed = flat([p != old for p, old in zip(model.parameters(), before)])
    assert 0.2 < changed.float().mean() <= 0.5


def test_scissorhands_initialises_the_top_weights(tmp_path):
    model = tiny_vit()
    before = [p.detach().clone() for p in model.parameters()]
    copied = copy.deepcopy(model).eval()
    gradients = sample_gradient(
        copied, copied(**collate_images(images(6))).loss, list(copied.parameters())
    )
    scores = [(g * p).abs() for g, p in zip(gradients, before)]
    trainer = make_trainer(
        model,
        tmp_path,
        forget=images(6),
        retain=images(6, seed=2),
        collator=collate_images,
        method="scissorhands",
        method_kwargs={"sparsity": 0.9},
        arguments={"callbacks": [Remember()]},
    )
    trainer.train()
    renewed = [Remember.start[name] for name, _ in model.named_parameters()]
    changed = [p != old for p, old in zip(renewed, before)]
    ranks = flat(scores).argsort(descending=True).argsort().view(-1)
    assert flat(changed).any() and int(ranks[flat(changed)].max()) < 0.1 * len(ranks) + 3
    for (name, _), p, moved in zip(model.named_parameters(), renewed, changed):
        if "layernorm" in name:
            assert not moved.any()
        elif p.ndim > 1:
            assert (p[moved].abs() <= 1 / p[0].numel() ** 0.5 + 1e-6).all()
