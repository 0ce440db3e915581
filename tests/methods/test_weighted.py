"""Weighted sums of losses, compared with plain implementations of their formulas."""

import copy

import torch

from tests.methods.formulas import Remember
from tests.support.tiny import collate_images, images, make_trainer, tiny_vit


def test_l1_sparse_adds_a_penalty_that_fades(tmp_path):
    """Runs that only differ in gamma differ by gamma sign(theta) in the first of two steps, and by
    half of it in the second."""
    steps = []
    for gamma in (0.0, 0.02):
        model = tiny_vit()
        model.load_state_dict(steps[0][0] if steps else model.state_dict())
        start = copy.deepcopy(model.state_dict())
        trainer = make_trainer(
            model,
            tmp_path,
            forget=images(4),
            retain=images(4, seed=2),
            collator=collate_images,
            max_steps=2,
            learning_rate=1e-3,
            optimizer=False,
            optim="sgd",
            method="l1_sparse",
            method_kwargs={"gamma": gamma},
            arguments={"callbacks": [Remember()]},
        )
        trainer.train()
        steps.append((start, Remember.weights, copy.deepcopy(model.state_dict())))
    plain, sparse = steps
    for name in plain[0]:
        # the sign of others changes under way
        clear = plain[0][name].abs() > 1e-3
        sign = torch.sign(plain[0][name])[clear]
        first, second = ((sparse[n][name] - plain[n][name])[clear] for n in (1, 2))
        torch.testing.assert_close(first, -1e-3 * 0.02 * sign, rtol=1e-2, atol=1e-7)
        torch.testing.assert_close(second, -1e-3 * 0.03 * sign, rtol=0.05, atol=2e-6)
