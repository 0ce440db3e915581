"""The step is of the network that is evaluated, in models with randomness."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

from hf_unlearn.trainer.randomness import FrozenRandomness
from tests.support.tiny import checkpointing
from tests.trainer.steps.random_models import (
    MODEL,
    RANDOM,
    alone,
    cosine,
    evaluated,
    setting,
    stacked,
    trained,
)

WAYS = [{}, MODEL, checkpointing(False), {**checkpointing(True), **MODEL}]


BERT_WAYS = [
    checkpointing(True),
    {**checkpointing(False), **MODEL},
    {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    {"neftune_noise_alpha": 5.0},
    {
        "peft_config": LoraConfig(
            target_modules=["query", "value"], lora_dropout=0.3, init_lora_weights=False
        )
    },
    {
        "peft_config": LoraConfig(
            target_modules=["query", "value"], lora_dropout=0.3, init_lora_weights=False
        ),
        **checkpointing(True),
    },
    {"method": "orthograd_mean", "per_device_retain_batch_size": 1},
]


# WavLM and Swin compute a position bias from parameters alone within a layer; WavLM hands it on to
# the next layer.
OWN_WAY = {
    "reversible": {},
    "WavLM": {**checkpointing(False), **MODEL},
    "stochastic depth in windows": checkpointing(False),
}


CASES = [(name, OWN_WAY.get(name, WAYS[n % 4])) for n, name in enumerate(RANDOM)]


@pytest.mark.parametrize(("name", "way"), [*CASES, *(("dropout", way) for way in BERT_WAYS)])
def test_the_step_is_orthogonal_in_the_network_that_is_evaluated(tmp_path, warned, name, way):
    model, forget, retain, collator = setting(name)
    # With a batch of one, only the mean is protected.
    if way.get("per_device_retain_batch_size") == 1:
        retain = retain[:1]
    trainer, before, step = trained(model, tmp_path, forget, retain, collator, **way)
    assert cosine(step, alone(evaluated(before), [collator([sample]) for sample in retain])) < 1e-5
    assert not trainer.training_run.checked_model.samples.engine_choice.one_by_one
    assert not warned


@pytest.mark.parametrize("by_model", [False, True])
def test_checkpoints_of_wavlm_that_never_end_are_refused(tmp_path, by_model):
    model, forget, retain, collator = setting("WavLM")
    if by_model:
        model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="checkpointing of WavLM .* in Trainer as well"):
        trained(
            model, tmp_path, forget, retain, collator, **({} if by_model else checkpointing(True))
        )


@pytest.mark.parametrize(
    ("method", "sees_dropout"),
    [("gradient_difference", True), ("pcgrad", False), ("pgu", False), ("influence", False)],
)
def test_only_methods_without_a_projection_train_with_dropout(tmp_path, method, sees_dropout):
    steps = []
    for probability in (0.3, 0.0):
        torch.manual_seed(0)
        model, forget, retain, _ = setting("dropout")
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
        steps.append(trained(model, tmp_path, forget, retain, stacked, method=method)[2])
    assert steps[1].norm() > 0
    assert torch.equal(*steps) != sees_dropout


def test_the_models_settings_are_restored():
    model = nn.Sequential(nn.LSTM(4, 4, 2, dropout=0.5), nn.Dropout(0.5), nn.BatchNorm1d(4))
    frozen = FrozenRandomness(model.train(), batch_norm=True)
    frozen.begin()
    frozen.begin()
    x = torch.randn(5, 4)
    assert torch.equal(model[0](x)[0], model[0](x)[0]) and torch.equal(model[1](x), x)
    assert model[0].training and model[0].dropout == 0 and model[2].training
    frozen.end()
    assert model[0].dropout == 0.5
