"""The engine's per-sample gradients on many architectures, against one pass for each sample."""

import pytest
import torch
import transformers as T
from torch import nn

from hf_unlearn.per_sample import PerSampleEngine
from hf_unlearn.per_sample.check import find_slow_parameters
from tests.per_sample.harness import K, Use, differences, loss_of, randomised
from tests.per_sample.texts import SMALL, TEXT, tokens
from tests.support.tiny import collate, tiny_whisper, utterances

VISION = {**SMALL, "image_size": 32, "patch_size": 8, "num_labels": 3}
SPEECH = {
    **SMALL,
    "conv_dim": [8, 8],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 8],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}


def images() -> dict:
    return {"pixel_values": torch.randn(K, 3, 32, 32), "labels": torch.arange(K) % 3}


CLASSES = torch.arange(K) % 3
TWO_LEVELS = {"depths": [1, 1], "num_labels": 3}


def of(name: str, batch, **options):
    """A model of transformers with its configuration, and a batch."""

    def make():
        config = getattr(T, name.partition("For")[0] + "Config")
        return getattr(T, name)(config(**options)), batch()

    return make


def speech() -> dict:
    return {"input_values": torch.randn(K, 1600), "labels": torch.randint(1, 10, (K, 2))}


ARCHITECTURES = {
    "whisper": lambda: (tiny_whisper(encoder_layers=2, decoder_layers=2), collate(utterances(K))),
    "bert": of("BertForSequenceClassification", lambda: tokens(CLASSES), **TEXT, num_labels=3),
    "gpt2": lambda: (
        T.GPT2LMHeadModel(
            T.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2)
        ),
        tokens(),
    ),
    "llama": of("LlamaForCausalLM", tokens, **TEXT, num_key_value_heads=1),
    "gemma": of("GemmaForCausalLM", tokens, **TEXT, num_key_value_heads=1, head_dim=8),
    "t5": of(
        "T5ForConditionalGeneration",
        tokens,
        vocab_size=50,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    ),
    "vit": of("ViTForImageClassification", images, **VISION),
    "beit": of("BeitForImageClassification", images, **VISION, use_relative_position_bias=True),
    "swin": of(
        "SwinForImageClassification",
        images,
        image_size=32,
        patch_size=4,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=4,
        num_labels=3,
    ),
    "convnext": of(
        "ConvNextForImageClassification",
        images,
        hidden_sizes=[8, 16],
        num_stages=2,
        **TWO_LEVELS,
    ),
    "resnet": of(
        "ResNetForImageClassification",
        images,
        embedding_size=8,
        hidden_sizes=[8, 16],
        layer_type="basic",
        **TWO_LEVELS,
    ),
    "wav2vec2": of("Wav2Vec2ForCTC", speech, **SPEECH, vocab_size=12),
}


def assert_same_rows(model, batch, slow=()):
    assert not differences(model, batch, slow)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_of_every_parameter(name):
    model, batch = ARCHITECTURES[name]()
    model = randomised(model)
    slow = find_slow_parameters(model, loss_of(model), batch, K)
    assert set(slow) <= {n for n in dict(model.named_parameters()) if "relative_position_bias" in n}
    assert_same_rows(model, batch, slow)


class Reused(nn.Module):
    """One weight is used as embedding, transposed, in two linear layers, and in part as a bias.

    Another parameter is not used at all.
    """

    def __init__(self):
        super().__init__()
        self.weight, self.unused = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(3))
        self.scale = nn.Parameter(torch.randn(()))

    def forward(self, ids, labels):
        x = nn.functional.embedding(ids, self.weight) @ self.weight
        x = nn.functional.linear(torch.tanh(x), self.weight.T) * self.scale + self.weight[2]
        return T.modeling_outputs.SequenceClassifierOutput(
            loss=nn.functional.cross_entropy(x.mean(1), labels)
        )


def test_reused_transposed_sliced_and_scalar_parameters():
    assert_same_rows(Reused(), {"ids": torch.randint(0, 6, (K, 5)), "labels": torch.arange(K)})


class Windowed(nn.Module):
    """Patches of images of different sizes, reordered into windows (Qwen2.5-VL)."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(10, 3)

    def forward(self, pixel_values, image_grid_thw, labels):
        order = torch.arange(len(pixel_values) // 2).flip(0)
        windows = torch.tanh(self.first(pixel_values)).view(-1, 2, 5)[order].reshape(-1, 5)
        windows = self.third(torch.tanh(self.second(windows)).view(-1, 10))[order.argsort()]
        images = windows.split((image_grid_thw.prod(-1) // 2).tolist())
        logits = torch.stack([image.mean(0) for image in images])
        return T.modeling_outputs.SequenceClassifierOutput(
            loss=nn.functional.cross_entropy(logits, labels)
        )


def test_images_of_different_sizes_in_one_tensor():
    grid = torch.tensor([[1, 2, n + 1] for n in range(K)])
    batch = {
        "pixel_values": torch.randn(int(grid.prod(1).sum()), 4),
        "image_grid_thw": grid,
        "labels": CLASSES,
    }
    model = Windowed()
    assert not find_slow_parameters(model, loss_of(model), batch, K)
    assert_same_rows(model, batch)


class Unruly(nn.Module):
    """Mixes the samples, but only where one of the parameters is used."""

    def __init__(self):
        super().__init__()
        self.good, self.bad = nn.Linear(4, 3), nn.Parameter(torch.randn(4))

    def forward(self, x, labels):
        stacked = torch.cat([x, self.bad.expand(1, 4)])[: len(x)]
        return T.modeling_outputs.SequenceClassifierOutput(
            loss=nn.functional.cross_entropy(self.good(stacked), labels)
        )


def test_a_parameter_without_a_rule_is_named_and_the_others_are_not_affected():
    model, batch = Unruly(), {"x": torch.randn(K, 4), "labels": torch.arange(K) % 3}
    reasons = find_slow_parameters(model, loss_of(model), batch, K)
    assert set(reasons) == {"bad"} and "cat" in reasons["bad"]
    assert not differences(model, batch, slow={"bad"})


def test_a_parameter_in_a_sparse_tensor_takes_the_slow_path():
    indices = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 1, 3], [2, 0, 1]])

    def function(x, values, layer):
        return layer(x) + x @ torch.sparse_coo_tensor(indices, values, (1, 1, 4, 3)).to_dense()[0]

    use, batch = Use(function, torch.randn(3), layer=nn.Linear(4, 3)), {"x": torch.randn(K, 5, 4)}
    slow = find_slow_parameters(use, loss_of(use), batch, K)
    assert set(slow) == {"parts.0"} and not differences(use, batch, slow)


def test_a_parameter_given_up_during_a_pass_gets_no_gradient():
    """The slow path then adds its gradient; this may happen in a step after the check, too."""
    model, batch = Unruly(), {"x": torch.randn(K, 4), "labels": torch.arange(K) % 3}
    engine = PerSampleEngine(model)
    with engine.record(K):
        loss = loss_of(model)(batch)
    engine.backward(loss.backward, lambda rows: rows.weighted(torch.ones(K)))
    assert id(model.bad) in engine.slow and model.bad.grad is None
    expected = torch.autograd.grad(loss_of(model)(batch), list(model.good.parameters()))
    for p, grad in zip(model.good.parameters(), expected):
        torch.testing.assert_close(p.grad, grad)
