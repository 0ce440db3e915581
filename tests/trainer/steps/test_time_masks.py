"""SpecAugment in training mode, for audio that is shorter than one of its masks."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as T
from torch.nn.utils.rnn import pad_sequence

from hf_unlearn.experiments.models.training import fit
from hf_unlearn.trainer.losses.time_masks import time_masks_that_fit
from tests.support.tiny import make_trainer
from tests.support.tiny_speech import collate_masked, collate_padded, waveform_sizes

# A frame for each 8 samples. SpecAugment is the only randomness.
SIZES = {**waveform_sizes(conv_kernel=(4, 4), conv_stride=(4, 2)), "ctc_loss_reduction": "mean"}
SIZES |= {"mask_time_prob": 0.9, "mask_time_length": 10}
# 5 and 7 frames, and 37 and 49.
SHORT, LONG = (48, 64), (300, 400)


def voices(*lengths: int) -> list[dict]:
    return [{"input_values": torch.randn(n), "labels": torch.tensor([1, 2])} for n in lengths]


def classified(*lengths: int) -> list[dict]:
    return [{**row, "labels": torch.tensor(i % 2)} for i, row in enumerate(voices(*lengths))]


def collate_classified(rows: list[dict]) -> dict:
    return {
        "input_values": pad_sequence([row["input_values"] for row in rows], batch_first=True),
        "labels": torch.stack([row["labels"] for row in rows]),
    }


def step(folder: Path, model: T.PreTrainedModel, rows: list, collator, **options) -> torch.Tensor:
    """The change of the trained weights by one step, which forgets and keeps the same number of
    samples."""
    model, half = copy.deepcopy(model), len(rows) // 2
    before = [p.detach().clone() for p in model.parameters()]
    arguments = {"per_device_train_batch_size": half, "per_device_retain_batch_size": half}
    trainer = make_trainer(
        model, folder, rows[:half], rows[half:], collator=collator, **arguments, **options
    )
    trainer.train()
    return torch.cat([(a - b).flatten() for a, b in zip(before, model.parameters())])


def without_masks(model: T.PreTrainedModel) -> T.PreTrainedModel:
    model = copy.deepcopy(model)
    model.config.mask_time_prob = 0.0
    return model


@pytest.mark.parametrize(
    "method, collator, lengths",
    [
        # Computed one by one, because padding matters with group norm.
        ("finetune", collate_padded, SHORT * 2),
        ("gradient_difference", collate_padded, SHORT * 2),
        ("gradient_difference", collate_masked, SHORT * 2),
        ("gradient_difference", collate_padded, LONG * 2),
    ],
)
def test_short_samples_get_no_mask_and_long_ones_do(tmp_path, method, collator, lengths):
    model = T.Wav2Vec2ForCTC(T.Wav2Vec2Config(**SIZES))
    rows = voices(*lengths)
    first, second = (
        step(tmp_path, each, rows, collator, method=method)
        for each in (model, without_masks(model))
    )
    assert second.norm() > 0
    assert torch.equal(first, second) == (lengths == SHORT * 2)


def test_the_logits_of_short_samples(tmp_path):
    model = T.Wav2Vec2ForSequenceClassification(T.Wav2Vec2Config(**SIZES, num_labels=2))
    rows = classified(*SHORT, *SHORT)
    first, second = (
        step(tmp_path, each, rows, collate_classified, method="scrub")
        for each in (model, without_masks(model))
    )
    assert second.norm() > 0 and torch.equal(first, second)


def test_a_recipe_trains_its_models_on_short_samples(tmp_path):
    """By the plain Trainer."""
    model = T.Wav2Vec2ForCTC(T.Wav2Vec2Config(**SIZES))
    before = copy.deepcopy(model.lm_head.weight)
    numbers = {"train_steps": 1, "train_batch_size": 2, "train_learning_rate": 0.1}
    flags = {"bf16": False, "fp16": False, "use_cpu": True, "disable_tqdm": True}
    recipe = SimpleNamespace(
        args=SimpleNamespace(**flags, dataloader_num_workers=0),
        options=SimpleNamespace(**numbers, train_warmup=0, threads=1),
        collator=lambda _: collate_padded,
        processor=None,
        training_data=lambda _, rows: rows,
    )
    fit(recipe, model, voices(*SHORT), seed=0, folder=tmp_path)
    assert not torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("name", ["Hubert", "WavLM", "SEW", "Data2VecAudio", "UniSpeechSat"])
def test_every_model_with_such_masks(name):
    more = {"squeeze_factor": 2} if name == "SEW" else {}
    config = getattr(T, f"{name}Config")(**SIZES, **more)
    model = getattr(T, f"{name}ForCTC")(config).train()
    batch = collate_padded(voices(*SHORT))
    with pytest.raises(ValueError, match="mask_length"):
        model(**batch)
    with time_masks_that_fit(model), time_masks_that_fit(model):
        expected = model.eval()(**batch).loss
        assert torch.equal(model.train()(**batch).loss, expected)
        # A copy uses its own weights, though its long audio is masked.
        other = copy.deepcopy(model)
        torch.nn.init.zeros_(other.base_model.masked_spec_embed)
        losses, batch_with_masks = [], collate_padded(voices(*LONG))
        for each in (model, other):
            T.set_seed(0)
            losses.append(each(**batch_with_masks).loss)
        assert losses[0] != losses[1]
    with pytest.raises(ValueError, match="mask_length"):
        model(**batch)
