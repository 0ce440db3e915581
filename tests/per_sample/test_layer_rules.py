"""The rules on torch's layers, against one backward pass per sample in float64."""

import math

import pytest
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from hf_unlearn.per_sample.rules import layers
from tests.per_sample.harness import assert_same_rows, layer, numbers

LAYERS = {
    "Linear": (nn.Linear(5, 3), (5,)),
    "Linear in three dimensions": (nn.Linear(5, 3), (6, 5)),
    "Linear with more leading axes, without bias": (nn.Linear(5, 3, bias=False), (2, 6, 5)),
    "Conv1D of transformers": (Conv1D(3, 5), (6, 5)),
    "Conv1d": (nn.Conv1d(4, 6, 3), (4, 9)),
    "Conv1d with stride, padding, dilation": (
        nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2),
        (4, 9),
    ),
    "Conv1d in groups": (nn.Conv1d(4, 6, 3, groups=2), (4, 9)),
    "Conv1d for each channel": (nn.Conv1d(4, 4, 3, groups=4, bias=False), (4, 9)),
    "Conv1d, same length": (nn.Conv1d(4, 6, 4, padding="same", dilation=2), (4, 9)),
    "Conv1d, circular": (nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), (4, 9)),
    "Conv2d": (nn.Conv2d(4, 6, 3), (4, 7, 6)),
    "Conv2d with everything": (
        nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), groups=2),
        (4, 7, 6),
    ),
    "Conv2d, valid": (nn.Conv2d(4, 6, 3, padding="valid"), (4, 7, 6)),
    "Conv2d, same size, even kernel": (nn.Conv2d(4, 6, 2, padding="same"), (4, 7, 6)),
    "Conv2d, reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 7, 6)),
    "Conv1d of many places": (nn.Conv1d(2, 3, 5, padding=2, dilation=2), (2, 210)),
    "Conv2d of many places": (nn.Conv2d(2, 3, 3, padding=1), (2, 15, 14)),
    "Conv2d of many places, uneven": (nn.Conv2d(2, 3, (3, 4), (1, 2), (0, 3), (2, 1)), (2, 19, 34)),
    "Conv2d of many places, same size": (nn.Conv2d(2, 3, (3, 2), padding="same"), (2, 15, 14)),
    "Conv2d of many places in groups": (nn.Conv2d(4, 4, 3, padding=1, groups=2), (4, 15, 14)),
    "Conv2d of single places, with stride": (nn.Conv2d(2, 3, 1, stride=(2, 3)), (2, 15, 14)),
    "Conv2d of single places, padded": (nn.Conv2d(2, 3, 1, padding=2), (2, 15, 14)),
    "Conv3d of many places": (nn.Conv3d(2, 3, 3), (2, 8, 8, 8)),
    "Conv3d": (nn.Conv3d(2, 4, (2, 3, 2), (2, 1, 1), (0, 1, 0)), (2, 4, 5, 4)),
    "Conv3d in groups, same size": (nn.Conv3d(2, 4, 3, padding="same", groups=2), (2, 4, 5, 4)),
    "ConvTranspose1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), (4, 5)),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, dilation=2), (4, 5, 4)),
    "ConvTranspose2d in groups": (nn.ConvTranspose2d(4, 6, 2, groups=2), (4, 5, 4)),
    "ConvTranspose1d with output padding beyond the stride": (
        nn.ConvTranspose1d(4, 6, 3, output_padding=1, dilation=2),
        (4, 5),
    ),
    "ConvTranspose2d with output padding beyond the stride": (
        nn.ConvTranspose2d(4, 6, 3, stride=(1, 2), output_padding=(2, 1), dilation=3),
        (4, 5, 4),
    ),
    "ConvTranspose2d with output padding": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1),
        (4, 5, 4),
    ),
    "ConvTranspose2d of many places": (nn.ConvTranspose2d(4, 6, 3, padding=1), (4, 15, 14)),
    "ConvTranspose3d": (nn.ConvTranspose3d(2, 3, 2), (2, 3, 3, 3)),
    "LayerNorm": (nn.LayerNorm(5), (6, 5)),
    "LayerNorm of two axes": (nn.LayerNorm((6, 5)), (6, 5)),
    "RMSNorm": (nn.RMSNorm(5), (6, 5)),
    "RMSNorm of Llama": (LlamaRMSNorm(5), (6, 5)),
    "RMSNorm of Gemma": (GemmaRMSNorm(5), (6, 5)),
    "GroupNorm": (nn.GroupNorm(2, 4), (4, 7)),
    "InstanceNorm1d": (nn.InstanceNorm1d(4, affine=True), (4, 7)),
    "InstanceNorm2d": (nn.InstanceNorm2d(4, affine=True), (4, 7, 6)),
    "BatchNorm1d": (nn.BatchNorm1d(4), (4,)),
    "BatchNorm2d": (nn.BatchNorm2d(4), (4, 7, 6)),
    "PReLU": (nn.PReLU(), (4, 7)),
    "PReLU for each channel": (nn.PReLU(4), (4, 7)),
    "weight norm": (weight_norm(nn.Conv1d(4, 6, 3, groups=2), dim=2), (4, 9)),
    "attention of torch, time first inside": (
        nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True),
        (6, 4),
    ),
}


@pytest.mark.parametrize("name", ["BatchNorm2d", "GroupNorm", "InstanceNorm2d"])
def test_normalising_in_parts_gives_the_same_rows(monkeypatch, name):
    """As large activations on a CPU."""
    module, shape = LAYERS[name]
    monkeypatch.setattr(layers, "CACHED_VALUES", 3 * math.prod(shape))
    assert_same_rows(layer(module), numbers(*shape))


@pytest.mark.parametrize("name", LAYERS)
def test_rows_of_a_layer_equal_brute_force(name):
    module, shape = LAYERS[name]
    assert_same_rows(layer(module), numbers(*shape))
