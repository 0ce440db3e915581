"""Training on less than Whisper's 30 seconds of audio."""

import copy

import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from hf_unlearn.experiments.speech.short_audio import TruncatedFeatures, take_short_audio

FRAMES = 3000


def tiny_whisper(positions: int = 1500) -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = WhisperConfig(
        d_model=8,
        vocab_size=20,
        max_source_positions=positions,
        max_target_positions=12,
        decoder_start_token_id=1,
        **special,
        **sizes,
    )
    return WhisperForConditionalGeneration(config).eval()


def loss(model: WhisperForConditionalGeneration, features: torch.Tensor) -> torch.Tensor:
    return model(input_features=features, labels=torch.tensor([[3, 4, 2]])).loss


def test_a_short_input_gives_what_a_model_with_fewer_positions_gives():
    model, small = tiny_whisper(), tiny_whisper(positions=200)
    kept = {**model.state_dict()}
    name = "model.encoder.embed_positions.weight"
    small.load_state_dict({**kept, name: kept[name][:200]})
    take_short_audio(model)
    features = torch.randn(1, 80, 400)
    expected, result = loss(small, features), loss(model, features)
    assert torch.equal(expected, result)
    torch.autograd.grad(result, model.model.encoder.conv1.weight)


def test_whole_audio_weights_and_configuration_stay_as_they_are():
    model = tiny_whisper()
    features, before = torch.randn(1, 80, FRAMES), copy.deepcopy(model)
    take_short_audio(model)
    loss(model, features[..., :400])
    assert torch.equal(loss(before, features), loss(model, features))
    assert model.model.encoder.config is model.config
    assert model.config.max_source_positions == 1500
    assert all(map(torch.equal, before.state_dict().values(), model.state_dict().values()))
    generated = [one.generate(features, max_new_tokens=5) for one in (before, model)]
    assert torch.equal(*generated)


def test_an_error_in_the_encoder_leaves_the_configuration():
    model = tiny_whisper()
    take_short_audio(model)
    with pytest.raises(RuntimeError):
        loss(model, torch.randn(1, 79, 400))
    assert model.model.encoder.config is model.config


def test_a_copied_model_takes_short_audio_too():
    model = tiny_whisper()
    take_short_audio(model)
    copied, features = copy.deepcopy(model), torch.randn(1, 80, 400)
    assert torch.equal(loss(model, features), loss(copied, features))
    assert copied.model.encoder.config is copied.config is not model.config


def test_features_are_cut_to_the_length():
    rows = [{"input_features": torch.arange(2 * FRAMES).reshape(2, FRAMES), "labels": [1]}]
    cut = TruncatedFeatures(rows, 1.5)
    assert len(cut) == 1
    assert cut[0]["labels"] == [1]
    assert cut[0]["input_features"].tolist() == rows[0]["input_features"][:, :150].tolist()
