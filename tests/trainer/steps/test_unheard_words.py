"""`unheard_words`: the targets, the step, and where they are refused."""

import copy

import pytest
import torch

from hf_unlearn import UnlearnConfig
from hf_unlearn.trainer.losses.silence import Silence
from hf_unlearn.trainer.losses.unheard_words import SILENT_FEATURE
from tests.support.tiny import FORGET, RETAIN, collate, make_trainer, tiny_whisper
from tests.trainer.brute_force import relative, step

UNHEARD = {"forget_objective": "silence", "silence_texts": "own", "unheard_words": 1.0}
# Of the tiny model: padding, and the tokens that begin and end a text.
SPECIAL = (0, 1, 2, 3)


def whisper():
    torch.manual_seed(0)
    return tiny_whisper()


def expected_targets(model, text: list[int]) -> list[int]:
    """Position by position: the most likely word after the true text so far, without audio."""
    model, targets = copy.deepcopy(model).eval(), []
    config = model.config
    silence = torch.full((1, config.num_mel_bins, 2 * config.max_source_positions), SILENT_FEATURE)
    for position, true in enumerate(text):
        if true in SPECIAL:
            targets.append(true)
            continue
        so_far = torch.tensor([[config.decoder_start_token_id, *text[:position]]])
        with torch.no_grad():
            scores = model(input_features=silence, decoder_input_ids=so_far).logits[0, -1]
        order = scores.argsort(descending=True).tolist()
        targets.append(next(word for word in order if word not in (*SPECIAL, true)))
    return targets


def target_gradients(model, samples) -> list[torch.Tensor]:
    """The gradient of each sample's mean log-probability of its targets, one matrix for each
    parameter."""
    reference, model = model, copy.deepcopy(model).double().train()
    parameters, rows = [p for p in model.parameters() if p.requires_grad], []
    for sample in samples:
        batch = collate([{**sample, "input_features": sample["input_features"].double()}])
        text = batch["labels"][0].tolist()
        inputs = torch.tensor([[model.config.decoder_start_token_id, *text[:-1]]])
        logits = model(input_features=batch["input_features"], decoder_input_ids=inputs).logits[0]
        targets = expected_targets(reference, text)
        value = logits.log_softmax(-1)[range(len(text)), targets].mean()
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        rows.append(
            [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients)]
        )
    return [torch.stack(of_parameter).flatten(1) for of_parameter in zip(*rows)]


def test_targets_are_what_the_model_expects_without_audio_or_the_end():
    model = whisper()
    silence = Silence(model, None, unheard_words=0.5)
    batch = silence.with_targets_drawn(collate(FORGET), torch.Generator().manual_seed(0))
    drawn = batch["unheard_words"]
    # What is learned later does not change them.
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight.neg_()
    made = silence.silent(batch)
    assert "unheard_words" not in made
    original, words, ends = whisper(), 0, 0
    for row, targets, of_row in zip(batch["labels"], made["labels"], drawn):
        text = row[row != -100].tolist()
        assert (targets[len(text) :] == -100).all()
        for position, word in enumerate(expected_targets(original, text)):
            special = text[position] in SPECIAL
            expected = word if special or of_row[position] else model.config.eos_token_id
            assert int(targets[position]) == expected
            words += not special and bool(of_row[position])
            ends += not special and not of_row[position]
    assert words and ends


def test_steps_are_orthogonal_to_the_same_targets_of_retain_samples(tmp_path):
    model = whisper()
    gradient = step(model, tmp_path, **UNHEARD, alpha=0.9, granularity="model").detach()
    rows = torch.cat(target_gradients(model, RETAIN), 1)
    along = (rows @ gradient).abs() / (rows.norm(dim=1) * gradient.norm())
    assert float(along.max()) < 1e-4


def test_the_step_raises_the_targets_of_forget_samples(tmp_path):
    model = whisper()
    gradient = step(model, tmp_path, **UNHEARD, method="gradient_ascent")
    u = torch.cat(target_gradients(model, FORGET), 1).mean(0)
    # The optimizer descends.
    assert relative(gradient, -u) < 1e-4


def test_it_is_refused_where_it_has_no_meaning(tmp_path):
    with pytest.raises(ValueError, match="unheard_words is 1.5, but must be a share of positions"):
        UnlearnConfig(output_dir="out", unheard_words=1.5)
    with pytest.raises(ValueError, match="with forget_objective='loss'"):
        make_trainer(whisper(), tmp_path, unheard_words=0.5)
    with pytest.raises(ValueError, match="step_control='drift'"):
        make_trainer(whisper(), tmp_path, **UNHEARD, step_control="drift")
