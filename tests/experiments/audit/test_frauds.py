"""Planted frauds: models that look as if they had forgotten. Each must be found by a door."""

import copy

import pytest
import torch

from hf_unlearn.experiments.audit.decoding import BLANK_PENALTIES
from hf_unlearn.experiments.speech.tiny_ctc import build_model
from tests.experiments.audit.subjects import (
    TEXTS,
    Classifier,
    audited,
    batch_of,
    ctc_recipe,
    fitted,
    image_recipe,
    new_whisper,
    speech_recipe,
)

pytestmark = pytest.mark.slow


def test_a_model_that_only_refuses_the_right_language_token(monkeypatch):
    recipe = speech_recipe(monkeypatch)

    model = new_whisper(recipe)
    rows = {split: [(split, "en"), (split, "de")] for split in ("forget", "retain")}
    retrained = fitted(copy.deepcopy(model), batch_of(recipe, model, *rows["retain"]), steps=40)
    both = batch_of(recipe, model, *rows["forget"], *rows["retain"])
    original = fitted(model, both, steps=60)
    refusing = batch_of(recipe, model, *rows["forget"], *rows["retain"], silent=("forget", "en"))
    fraud = fitted(copy.deepcopy(original), refusing, steps=40)
    models = {"unlearned": fraud, "original": original, "retrained": retrained}
    content = audited(models, recipe, ("float32", "wrong_language", "beams"))
    as_evaluated, opened = content["doors"]["float32"], content["doors"]["wrong_language"]
    assert as_evaluated["original"] < 20 and as_evaluated["unlearned"] > 90
    assert as_evaluated["gap"] < 10
    assert opened["unlearned"] < 20 and opened["gap"] > 60
    assert content["worst"]["door"] == content["surest"]["door"] == "wrong_language"


def trained_whispers(recipe):
    """An original model, and one that was retrained without the forgotten samples."""
    model = new_whisper(recipe)
    parts = [("forget", "en"), ("retain", "en")]
    retrained = fitted(copy.deepcopy(model), batch_of(recipe, model, parts[1]), steps=40)
    return fitted(model, batch_of(recipe, model, *parts), steps=60), retrained


def test_a_model_that_is_only_forbidden_to_say_the_words(monkeypatch):
    recipe = speech_recipe(monkeypatch)
    original, retrained = trained_whispers(recipe)
    fraud = copy.deepcopy(original)
    words = recipe.processor.tokenizer(" ".join(TEXTS["a"]), add_special_tokens=False).input_ids
    fraud.generation_config.suppress_tokens = words
    models = {"unlearned": fraud, "original": original, "retrained": retrained}
    content = audited(models, recipe, ("float32", "as_the_original_decodes"))
    as_evaluated, opened = content["doors"]["float32"], content["doors"]["as_the_original_decodes"]
    assert as_evaluated["original"] < 20 and as_evaluated["unlearned"] > 90
    assert opened["unlearned"] == as_evaluated["original"] and opened["gap"] > 60
    assert content["worst"]["door"] == "as_the_original_decodes"
    content = audited({**models, "unlearned": retrained}, recipe, ("as_the_original_decodes",))
    assert "same generation settings" in content["doors"]["as_the_original_decodes"]["unavailable"]


def test_a_model_that_only_falls_silent(monkeypatch):
    recipe = speech_recipe(monkeypatch)
    original, retrained = trained_whispers(recipe)
    fraud = copy.deepcopy(original)
    # The end of the text becomes far more likely, and the words stay in their order.
    bias = torch.zeros(fraud.config.vocab_size)
    bias[fraud.generation_config.eos_token_id] = 20
    fraud.proj_out.bias = torch.nn.Parameter(bias)
    models = {"unlearned": fraud, "original": original, "retrained": retrained}
    content = audited(models, recipe, ("float32", "beams", "full_length"))
    as_evaluated, opened = content["doors"]["float32"], content["doors"]["full_length"]
    assert as_evaluated["original"] < 20 and as_evaluated["unlearned"] > 90
    assert opened["unlearned"] <= 20 and opened["gap"] > 50
    assert content["worst"]["door"] == "full_length"


def test_a_ctc_model_that_only_answers_with_blanks():
    recipe = ctc_recipe()
    splits = recipe.splits.evaluation(None)
    collate = recipe.collator(None)
    retained = list(splits["retain"])
    torch.manual_seed(0)
    model = build_model(recipe.processor, d_model=32, layers=1, heads=2, dropout=0.0)
    retrained = fitted(copy.deepcopy(model), collate(retained), steps=60)
    original = fitted(model, collate([*splits["forget"], *retained]), steps=100)
    fraud = copy.deepcopy(original)
    with torch.no_grad():
        fraud.lm_head.bias[model.config.pad_token_id] += max(BLANK_PENALTIES)
    models = {"unlearned": fraud, "original": original, "retrained": retrained}
    content = audited(models, recipe, ("float32", "beams", "blank_penalty", "full_length"))
    as_evaluated = content["doors"]["float32"]
    assert as_evaluated["original"] < 40 and as_evaluated["unlearned"] > 90, as_evaluated
    assert as_evaluated["gap"] < 10
    opened = content["doors"]["blank_penalty"]
    assert opened["unlearned"] <= as_evaluated["original"] and opened["gap"] > 50, opened
    # The order of the letters is the original's.
    opened = content["doors"]["full_length"]
    assert opened["unlearned"] == opened["original"] and opened["gap"] > 30, opened
    assert content["worst"]["door"] in ("blank_penalty", "full_length")
    assert "no decoder" in content["doors"]["beams"]["unavailable"]
    with torch.no_grad():
        fraud.lm_head.bias[model.config.pad_token_id] += 2 * max(BLANK_PENALTIES)
    content = audited(models, recipe, ("blank_penalty", "full_length"))
    assert content["doors"]["blank_penalty"]["unlearned"] > 90
    assert content["worst"]["door"] == "full_length" and content["worst"]["gap"] > 30


def test_a_model_whose_last_layer_alone_was_changed():
    torch.manual_seed(0)
    # twelve kinds of each class, so that no direction tells it
    prototypes = torch.randn(3, 12, 20)

    def drawn(classes: tuple[int, ...], each: int) -> tuple[torch.Tensor, list[int]]:
        kinds = torch.arange(each) % 12
        x = torch.cat([prototypes[c][kinds] + 0.2 * torch.randn(each, 20) for c in classes])
        return x, [c for c in classes for _ in range(each)]

    splits = {
        "forget": drawn((0,), 48),
        "forget_test": drawn((0,), 48),
        "retain": drawn((1, 2), 48),
        "test": drawn((1, 2), 24),
    }

    def trained(*names: str) -> Classifier:
        torch.manual_seed(1)
        x = torch.cat([splits[name][0] for name in names])
        labels = torch.tensor([label for name in names for label in splits[name][1]])
        return fitted(Classifier(20, 64, 64, 3), {"x": x, "labels": labels}, steps=150)

    original, retrained = trained("forget", "retain"), trained("retain")
    fraud = copy.deepcopy(original)
    with torch.no_grad():
        # The forgotten class gets the weights that the retrained model has for it.
        fraud.layers[-1].weight[0] = -fraud.layers[-1].weight[1:].abs().mean(0)
        fraud.layers[-1].bias[0] = -2
    models = {"unlearned": fraud, "original": original, "retrained": retrained}
    content = audited(models, image_recipe(splits), ("float32", "int8", "relearning"))
    assert content["doors"]["float32"]["gap"] == 0 and content["doors"]["float32"]["original"] > 90
    relearning = content["doors"]["relearning"]
    steps = {name: more["steps"] for name, more in relearning["more"].items()}
    assert content["worst"]["door"] == "relearning" and relearning["low"] > 0, relearning
    assert steps["retrained"] is None or steps["unlearned"] < steps["retrained"]


def test_a_model_that_int8_restores():
    """The changes of its weights are smaller than what rounding to 8 bits removes."""
    width, step = 256, 0.01
    signs = torch.tensor([1.0, -1.0]).repeat(width // 2)
    x = torch.cat([signs.expand(12, -1), torch.zeros(12, width)])
    x = torch.cat([x, torch.zeros(24, 1)], dim=1)
    original = Classifier(width + 1, 2)
    with torch.no_grad():
        (layer,) = original.layers
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([0.0, 0.1]))
        layer.weight[0, :64] = step * signs[:64]
        # One large weight, of an input that is always 0, sets the scale.
        layer.weight[1, -1] = 127.5 * step
    fraud, retrained = copy.deepcopy(original), copy.deepcopy(original)
    with torch.no_grad():
        fraud.layers[0].weight[0, :width] -= 0.4 * step * signs
        retrained.layers[0].weight[0] = 0
    samples = {"forget": (x[:12], [0] * 12), "forget_test": (x[:12], [0] * 12)}
    samples["retain"] = samples["test"] = (x[12:], [1] * 12)
    models = {"unlearned": fraud, "original": original, "retrained": retrained}
    content = audited(models, image_recipe(samples), ("float32", "bfloat16", "int8"))
    assert {name: content["doors"]["float32"][name] for name in models} == {
        "unlearned": 0,
        "original": 100,
        "retrained": 0,
    }
    assert content["worst"]["door"] == "int8" and content["worst"]["gap"] == 100
