"""The forget objective "silence": the step, and where it is refused."""

import copy

import pytest
import torch

from hf_unlearn import UnlearnConfig
from hf_unlearn.per_sample.reference import orthograd_gradient, sample_gradient
from hf_unlearn.trainer.losses.silence import Silence
from tests.support.tiny import (
    FORGET,
    RETAIN,
    collate,
    collate_images,
    images,
    make_trainer,
    tiny_vit,
    tiny_whisper,
)
from tests.trainer.brute_force import relative, step

# Silence after the sample's own text.
OWN = {"forget_objective": "silence", "silence_texts": "own"}


def silence_gradients(model, samples) -> list[list[torch.Tensor]]:
    """The gradient of each sample's mean log p(end of text), from logits of the true text."""
    model, config = copy.deepcopy(model).double().train(), model.config
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = []
    for sample in samples:
        batch = collate([{**sample, "input_features": sample["input_features"].double()}])
        labels = batch["labels"][0]
        inputs = torch.cat([torch.tensor([config.decoder_start_token_id]), labels[:-1]])
        special = (config.eos_token_id, config.pad_token_id, config.bos_token_id)
        logits = model(
            input_features=batch["input_features"], decoder_input_ids=inputs[None]
        ).logits[0]
        targets = [int(t) if int(t) in special else config.eos_token_id for t in labels]
        value = logits.log_softmax(-1)[range(len(labels)), targets].mean()
        gradients.append(torch.autograd.grad(value, parameters, allow_unused=True))
    return [
        [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, of_sample)]
        for of_sample in gradients
    ]


def label_gradients(model, samples) -> list[list[torch.Tensor]]:
    model = copy.deepcopy(model).double().train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = []
    for sample in samples:
        batch = collate([{**sample, "input_features": sample["input_features"].double()}])
        gradients.append(sample_gradient(model, model(**batch).loss, parameters))
    return gradients


def columns(gradients: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """One matrix (k, values) for each parameter."""
    return [torch.stack(of_parameter).flatten(1) for of_parameter in zip(*gradients)]


def whisper():
    torch.manual_seed(0)
    return tiny_whisper()


@pytest.mark.parametrize("granularity", ["parameter", "model"])
def test_orthograd_raises_silence_orthogonally_to_that_of_retain_samples(granularity, tmp_path):
    model = whisper()
    gradient = step(model, tmp_path, **OWN, alpha=0.0, granularity=granularity)
    u = [matrix.mean(0) for matrix in columns(silence_gradients(model, FORGET))]
    labels = columns(label_gradients(model, RETAIN))
    rows = [torch.cat(pair) for pair in zip(labels, columns(silence_gradients(model, RETAIN)))]
    if granularity == "model":
        expected = orthograd_gradient(torch.cat(u), torch.cat(rows, 1), 0.0)
    else:
        expected = torch.cat([orthograd_gradient(*pair, 0.0) for pair in zip(u, rows)])
    assert relative(gradient, expected) < 1e-3


def test_retain_part_is_orthogonal_to_silence_too(tmp_path):
    model = whisper()
    gradient = step(model, tmp_path, **OWN, alpha=0.9, granularity="model")
    silence = torch.cat(columns(silence_gradients(model, RETAIN)), 1)
    along = (silence @ gradient).abs() / (silence.norm(dim=1) * gradient.norm())
    assert float(along.max()) < 1e-4
    # The losses of the labels fall.
    assert float(torch.cat(columns(label_gradients(model, RETAIN)), 1).mean(0) @ gradient) > 0


def test_gradient_difference_raises_silence(tmp_path):
    model = whisper()
    gradient = step(model, tmp_path, **OWN, method="gradient_difference", alpha=0.3)
    u = torch.cat(columns(silence_gradients(model, FORGET)), 1).mean(0)
    r = torch.cat(columns(label_gradients(model, RETAIN)), 1).mean(0)
    assert relative(gradient, 0.3 * r - 0.7 * u) < 1e-4


def test_texts_are_mixed_between_forget_and_retain_samples(tmp_path, monkeypatch):
    """The step is that of the samples with other texts, and their audio stays."""
    seen, exchange = [], Silence.with_texts_of

    def recorded(self, batch, other, generator):
        mixed = exchange(self, batch, other, generator)
        seen.append((batch, other, mixed))
        return mixed

    monkeypatch.setattr(Silence, "with_texts_of", recorded)
    model = whisper()
    gradient = step(model, tmp_path, forget_objective="silence", alpha=0.0, granularity="model")
    forget, retain = seen[0][2], seen[-1][2]
    samples = {"forget": unbatched(forget), "retain": unbatched(retain)}
    u = torch.cat(columns(silence_gradients(model, samples["forget"])), 1).mean(0)
    own = torch.cat(columns(label_gradients(model, RETAIN)), 1)
    rows = torch.cat([own, torch.cat(columns(silence_gradients(model, samples["retain"])), 1)])
    assert relative(gradient, orthograd_gradient(u, rows, 0.0)) < 1e-3
    for batch, other, mixed in seen:
        texts = {name: texts_of(each) for name, each in zip("bom", (batch, other, mixed))}
        changed = [a != b for a, b in zip(texts["b"], texts["m"])]
        assert any(changed) and not all(changed)
        assert all(m in (b, *texts["o"]) for b, m in zip(texts["b"], texts["m"]))
        assert torch.equal(batch["input_features"], mixed["input_features"])


def texts_of(batch) -> list[tuple]:
    return [tuple(row[row != -100].tolist()) for row in batch["labels"]]


def unbatched(batch) -> list[dict]:
    return [
        {"input_features": features, "labels": torch.tensor(text)}
        for features, text in zip(batch["input_features"], texts_of(batch))
    ]


def test_mixed_texts_need_labels_that_the_model_makes_its_inputs_of():
    silence = Silence(whisper(), None, mixes_texts=True)
    batch = {"labels": torch.ones(2, 3, dtype=torch.long), "decoder_input_ids": torch.ones(2, 3)}
    with pytest.raises(ValueError, match="the collator also gives decoder_input_ids"):
        silence.with_texts_of(batch, batch, torch.Generator())


def test_a_run_makes_the_model_write_nothing(tmp_path):
    model = whisper()
    trainer = make_trainer(
        model,
        tmp_path,
        forget_objective="silence",
        step_control="drift",
        max_drift=0.002,
        alpha=0.0,
        learning_rate=0.1,
        max_steps=6,
    )
    trainer.train()
    values = [entry["forget_loss"] for entry in trainer.state.log_history if "forget_loss" in entry]
    rises = [entry["forget_rise"] for entry in trainer.state.log_history if "drift" in entry]
    assert values[0] < values[-1] < 0 and rises[0] > 0
    assert max(entry.get("drift", 0) for entry in trainer.state.log_history) <= 0.002


def test_classifiers_and_methods_with_an_objective_of_their_own_are_refused(tmp_path):
    data = {"forget": images(4, 1), "retain": images(4, 2), "collator": collate_images}
    with pytest.raises(ValueError, match="the model is a ViTForImageClassification"):
        make_trainer(tiny_vit(), tmp_path, forget_objective="silence", **data)
    for method in ("npo", "random_label", "finetune"):
        with pytest.raises(
            ValueError, match="not ascend one: use orthograd, .*scissorhands.* or pgu"
        ):
            make_trainer(whisper(), tmp_path, method=method, forget_objective="silence")
    with pytest.raises(ValueError, match="must be 'own' or 'mixed'"):
        UnlearnConfig(output_dir="out", silence_texts="none")
    with pytest.raises(ValueError, match="must be 'loss' or 'silence'"):
        UnlearnConfig(output_dir="out", forget_objective="hush")
