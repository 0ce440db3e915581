"""PGU, compared with plain implementations of its formulas."""

import copy
from collections import defaultdict

import pytest
import torch
from torch import nn

from hf_unlearn.methods.nullspace import layer_inputs, main_directions
from tests.methods.formulas import double
from tests.support.tiny import collate_images, images, make_trainer, tiny_vit


@pytest.mark.parametrize(
    "layer, x",
    [
        (nn.Linear(6, 4), torch.randn(2, 5, 6)),
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), torch.randn(2, 4, 11)),
        (nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=1, groups=2), torch.randn(2, 4, 5, 6)),
    ],
    ids=["linear", "conv1d", "conv2d"],
)
def test_a_layer_multiplies_its_weight_with_layer_inputs(layer, x):
    layer, x = layer.double(), x.double()
    rows = layer_inputs(layer, x)
    output = layer(x) - layer(torch.zeros_like(x))
    if isinstance(layer, nn.Linear):
        expected = (rows @ layer.weight.T).view(2, 5, 4)
    else:
        parts = rows.view(2, layer.groups, -1, rows.shape[1])
        weights = layer.weight.flatten(1).view(layer.groups, -1, rows.shape[1])
        expected = torch.einsum("kgti,goi->kgot", parts, weights).reshape(output.shape)
    torch.testing.assert_close(output, expected)


def test_pgu_keeps_outputs_on_the_main_directions(tmp_path):
    """W x is unchanged for every x in the main directions, which hold 90 % of the second moment of
    each layer's retain inputs."""
    model, retain = tiny_vit().double(), double(images(3, seed=2))
    trainer = make_trainer(
        model,
        tmp_path,
        forget=double(images(4)),
        retain=retain,
        collator=collate_images,
        method="pgu",
    )
    original = copy.deepcopy(model).eval()
    trainer.train()
    inputs = defaultdict(list)

    def record(layer: nn.Module, arguments: tuple, output: torch.Tensor) -> None:
        inputs[names[layer]].append(layer_inputs(layer, arguments[0]))

    names = {layer: name for name, layer in original.named_modules()}
    for layer in names:
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.register_forward_hook(record)
    with torch.no_grad():
        original(**collate_images(retain))
    total_change = 0
    for (name, p), old in zip(model.named_parameters(), original.parameters()):
        change = (p - old).detach()
        if (layer := name.removesuffix(".weight")) not in inputs or p.ndim < 2:
            assert not change.any(), name
            continue
        x = torch.cat(inputs[layer])
        M = main_directions(x.T @ x, 0.9)
        assert (x @ M).square().sum() > 0.9 * x.square().sum() >= (x @ M[:, :-1]).square().sum()
        assert (change.flatten(1) @ M).norm() <= 1e-10
        total_change += float(change.norm())
    assert total_change > 1e-6
