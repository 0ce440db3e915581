"""The frozen first part of a model is computed once for each sample, and nothing else changes."""

import contextlib
import copy
import re

import pytest
import torch
from torch import nn
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)

from hf_unlearn import UnlearnConfig
from hf_unlearn.trainer.frozen import parts, store
from hf_unlearn.trainer.frozen.replay import Replay
from hf_unlearn.trainer.frozen.store import TensorStore
from hf_unlearn.trainer.steps import checked_model
from tests.support.tiny import (
    FORGET,
    FRAMES,
    MELS,
    RETAIN,
    collate_images,
    images,
    make_trainer,
    tiny_whisper,
)
from tests.support.tiny_speech import waveform_sizes

# With layers of this size, the CPU's matrix products give a row the same bits in every batch.
EVEN = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}


def freeze_all_but(model: nn.Module, trainable: str) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and bool(re.search(trainable, name)))
    return model


def whisper(trainable: str, **changes) -> nn.Module:
    torch.manual_seed(0)
    return freeze_all_but(
        tiny_whisper(init_std=0.3, encoder_layers=2, **EVEN, **changes), trainable
    )


def vit() -> nn.Module:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=8,
        patch_size=2,
        num_labels=3,
    )
    # The name of the list differs between versions of transformers.
    return freeze_all_but(ViTForImageClassification(config), r"layers?\.2\.")


def wav2vec2() -> nn.Module:
    torch.manual_seed(0)
    sizes = waveform_sizes(
        hidden_size=32,
        num_hidden_layers=3,
        conv_dim=(32, 32),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        feat_extract_norm="layer",
        num_labels=3,
    )
    model = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**sizes))
    return freeze_all_but(model, r"encoder\.layers\.2")


def recordings(n: int, seed: int) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    lengths = [200 + 40 * (i % 2) for i in range(n)]
    return [
        {"input_values": torch.randn(length, generator=generator), "labels": torch.tensor(i % 3)}
        for i, length in enumerate(lengths)
    ]


def collate_recordings(rows: list[dict]) -> dict:
    values = [row["input_values"] for row in rows]
    masks = [torch.ones(len(waveform), dtype=torch.long) for waveform in values]
    padded, mask = (nn.utils.rnn.pad_sequence(x, batch_first=True) for x in (values, masks))
    labels = torch.stack([row["labels"] for row in rows])
    return {"input_values": padded, "attention_mask": mask, "labels": labels}


def trained(model: nn.Module, tmp_path, **options):
    """A trainer after three steps and an evaluation, with the evaluation's numbers."""
    options = {
        "per_device_train_batch_size": 4,
        "per_device_retain_batch_size": 3,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "generation_max_length": 12,
        **options,
    }
    trainer = make_trainer(model, tmp_path, optimizer=False, **options)
    trainer.train()
    return trainer, trainer.predict(options.get("forget", FORGET))


CASES = {
    "decoder": (lambda: whisper("decoder"), {"predict_with_generate": True}),
    "encoder layer": (lambda: whisper("encoder.layers.1"), {"predict_with_generate": True}),
    "vit": (
        vit,
        {"forget": images(6, 1), "retain": images(5, 2), "collator": collate_images},
    ),
    "wav2vec2": (
        wav2vec2,
        {
            "forget": recordings(6, 1),
            "retain": recordings(5, 2),
            "collator": collate_recordings,
        },
    ),
}


@pytest.mark.parametrize("method", ["orthograd", "gradient_difference"])
@pytest.mark.parametrize("case", CASES)
def test_everything_is_the_same_bit_for_bit(case, method, tmp_path):
    make_model, options = CASES[case]
    runs = []
    for limit in (1.0, 0):
        model = make_model()
        trainer, seen = trained(model, tmp_path, method=method, frozen_cache_gb=limit, **options)
        runs.append((trainer, model, seen))
    (trainer, kept, seen), (plain, computed, expected) = runs
    assert plain.training_run.checked_model.frozen.replay is None
    replay = trainer.training_run.checked_model.frozen.replay
    assert replay.used > 0 and len(replay.part.blocks) >= 3
    for (name, ours), theirs in zip(kept.named_parameters(), computed.parameters()):
        assert torch.equal(ours, theirs), name
    assert (seen.predictions == expected.predictions).all()
    assert seen.metrics["test_loss"] == expected.metrics["test_loss"]
    logged = [
        {name: value for name, value in row.items() if name.endswith(("_loss", "residual", "rank"))}
        for one in (trainer, plain)
        for row in one.state.log_history
    ]
    assert logged[: len(logged) // 2] == logged[len(logged) // 2 :]


def test_each_sample_is_computed_once_and_nothing_stays_in_the_model(tmp_path):
    model = whisper("decoder")
    trainer, _ = trained(
        model, tmp_path, predict_with_generate=True, per_device_retain_batch_size=len(RETAIN)
    )
    replay = trainer.training_run.checked_model.frozen.replay
    stored, used = len(replay.store), replay.used
    trainer.predict(FORGET)
    # Once for the texts and the loss together.
    assert (len(replay.store), replay.used) == (stored, used + len(FORGET))
    assert not any("forward" in vars(module) for module in model.modules())
    assert type(replay.part.entry).__name__ == "WhisperEncoder"
    # A copy of the model computes with its own weights.
    copied = copy.deepcopy(model)
    copied.model.encoder.layers[0].fc1.weight.data.zero_()
    batch = torch.stack([row["input_features"] for row in FORGET[:2]])
    with replay.active(), torch.no_grad():
        ours, theirs = (m.model.encoder(batch).last_hidden_state for m in (model, copied))
    assert not torch.equal(ours, theirs)


def test_changed_weights_are_noticed(tmp_path):
    model = whisper("decoder")
    trainer, _ = trained(model, tmp_path)
    batch = torch.stack([row["input_features"] for row in FORGET[:2]])
    with torch.no_grad():
        model.model.encoder.layers[0].fc1.weight.zero_()
        expected = model.model.encoder(batch).last_hidden_state
        with trainer.training_run.checked_model.frozen.active():
            assert torch.equal(model.model.encoder(batch).last_hidden_state, expected)
        assert len(trainer.training_run.checked_model.frozen.replay.store) == 2
    model.requires_grad_(True)
    with trainer.training_run.checked_model.frozen.active():
        assert model.model.encoder(batch).last_hidden_state.requires_grad


class Skipping(nn.Module):
    """Adds the output of the first layer to that of the last one, through a weight of zero."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.gate = nn.Linear(8, 3)
        nn.init.zeros_(self.gate.weight)

    def forward(self, x, labels=None):
        first = self.first(x)
        second = self.second(first)
        logits = self.last(second) + self.gate(first)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def vectors(n: int, seed: int) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"x": torch.randn(8, generator=generator), "labels": torch.tensor(i % 3)} for i in range(n)
    ]


def collate_vectors(rows: list[dict]) -> dict:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def of_vectors(model: nn.Module, tmp_path, **options):
    data = {"forget": vectors(6, 1), "retain": vectors(5, 2), "collator": collate_vectors}
    return trained(model, tmp_path, **data, **options)


def test_what_later_layers_use_besides_is_found_by_its_gradient(tmp_path):
    torch.manual_seed(0)
    model = Skipping()
    for layer in (model.first, model.second):
        layer.requires_grad_(False)
    plain = copy.deepcopy(model)
    trainer, _ = of_vectors(model, tmp_path)
    # `gate` needs the first layer, although its output does not change the loss yet.
    assert trainer.training_run.checked_model.frozen.replay.part.blocks == (model.first,)
    of_vectors(plain, tmp_path, frozen_cache_gb=0)
    for ours, theirs in zip(model.parameters(), plain.parameters()):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert model.gate.weight.abs().max() > 0


def test_samples_without_labels_are_evaluated(tmp_path):
    model = Skipping()
    model.first.requires_grad_(False)
    data = {"forget": vectors(4, 1), "retain": vectors(4, 2), "collator": collate_vectors}
    trainer = make_trainer(model, tmp_path, **data)
    unlabelled = [{"x": row["x"]} for row in vectors(3, 3)]
    assert trainer.predict(unlabelled).predictions.shape == (3, 3)
    assert trainer.training_run.checked_model.frozen.replay is None
    trainer.predict(vectors(3, 3))
    assert trainer.training_run.checked_model.frozen.replay is not None


class Centred(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0))


def test_a_part_that_mixes_samples_is_computed_with_a_warning(tmp_path, caplog):
    torch.manual_seed(0)
    model = Skipping()
    model.second = Centred(8, 8)
    for layer in (model.first, model.second, model.gate):
        layer.requires_grad_(False)
    trainer, _ = of_vectors(model, tmp_path, method="gradient_difference")
    assert trainer.training_run.checked_model.frozen.replay is None
    assert "depends on the other samples of the batch" in caplog.text


def test_a_random_part_is_computed_in_training_and_kept_in_evaluation(tmp_path, caplog):
    models, trainers = [], []
    for limit in (1.0, 0):
        models.append(whisper("decoder", dropout=0.1))
        options = {"method": "gradient_difference", "seed": 3, "frozen_cache_gb": limit}
        trainers.append(trained(models[-1], tmp_path, **options)[0])
    replay = trainers[0].training_run.checked_model.frozen.replay
    assert replay.random
    used = replay.used
    trainers[0].predict(FORGET)
    assert replay.used == used + len(FORGET)
    for ours, theirs in zip(*(model.parameters() for model in models)):
        assert torch.equal(ours, theirs)
    assert caplog.text.count("is random in training mode") == 1


class Noisy(list):
    """Samples with other noise each time they are read."""

    def __getitem__(self, index):
        row = super().__getitem__(index)
        noise = torch.randn(row["input_features"].shape)
        return {**row, "input_features": row["input_features"] + noise}


def test_inputs_that_never_come_again_end_it_with_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(parts, "GIGABYTE", 3 * MELS * FRAMES * 4)

    data = {"forget": Noisy(FORGET), "retain": Noisy(RETAIN)}
    options = {"per_device_train_batch_size": 2, "method": "finetune"}
    trainer = make_trainer(whisper("decoder"), tmp_path, frozen_cache_gb=1, **data, **options)
    trainer.train()
    assert trainer.training_run.checked_model.frozen.replay is None
    assert "no input came twice" in caplog.text


def test_nothing_is_kept_of_forget_samples_that_change_each_time(tmp_path):
    runs = []
    for changes, limit in ((False, 1.0), (True, 1.0), (True, 0)):
        forget = Noisy(FORGET)
        forget.changes_each_time = changes
        options = {"forget": forget, "max_steps": 3, "frozen_cache_gb": limit}
        trainer = make_trainer(whisper("decoder"), tmp_path, learning_rate=1e-2, **options)
        trainer.train()
        runs.append(trainer)
    stores = [trainer.training_run.checked_model.frozen.replay.store for trainer in runs[:2]]
    # the checks before the first of three steps see its batch
    assert len(stores[0]) - len(stores[1]) == 2 * len(FORGET)
    for weights in zip(*(trainer.model.parameters() for trainer in runs)):
        assert all(torch.equal(weights[0], other) for other in weights)


def test_the_store_goes_on_in_a_file_and_ends_at_its_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(store.tempfile, "tempdir", str(tmp_path))
    kept = TensorStore(limit=110, in_memory=50)
    tensors = [
        torch.arange(5.0),
        torch.tensor([True, False, True]),
        torch.randn(3, 4).bfloat16(),
        torch.randn(2, 4),
    ]
    for n, tensor in enumerate(tensors):
        assert kept.keep(bytes([n]), n, (tensor, tensor[:1]))
    assert not kept.keep(b"more", 0, (torch.zeros(10),)) and kept.is_full
    assert kept.get(b"more") is None
    for n, tensor in enumerate(tensors):
        note, entry = kept.get(bytes([n]))
        assert note == n and torch.equal(entry[0], tensor) and torch.equal(entry[1], tensor[:1])
    # Nothing is left behind, even by a process that is killed.
    assert list(tmp_path.iterdir()) == []
    kept.clear()
    assert kept.get(b"\0") is None and len(kept) == 0
    # A full disk ends it as well.
    monkeypatch.setattr(store.tempfile, "tempdir", str(tmp_path / "missing"))
    kept = TensorStore(limit=100, in_memory=20)
    assert kept.keep(b"a", 0, (tensors[0],)) and not kept.keep(b"b", 0, (tensors[0],))
    assert kept.is_full and kept.get(b"a") is not None and kept.get(b"b") is None


def test_calls_that_cannot_be_replaced_are_left_alone(tmp_path):
    model = whisper("decoder")
    trainer, _ = trained(model, tmp_path)
    replay: Replay = trainer.training_run.checked_model.frozen.replay
    before, batch = replay.used, torch.stack([row["input_features"] for row in FORGET[:2]])
    expected = model.model.encoder(batch, output_hidden_states=True).hidden_states
    with trainer.training_run.checked_model.frozen.active():
        states = model.model.encoder(batch, output_hidden_states=True).hidden_states
        assert all(map(torch.equal, states, expected))
        # For example to find the image that an attack needs.
        wanted = batch.requires_grad_()
        model.model.encoder(wanted).last_hidden_state.sum().backward()
    assert wanted.grad.abs().max() > 0
    assert replay.used == before


def test_texts_and_losses_of_a_batch_share_one_pass_of_the_encoder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = tiny_whisper(init_std=0.5)
    made = {"predict_with_generate": True, "generation_num_beams": 2, "generation_max_length": 12}
    trainer = make_trainer(model, tmp_path, per_device_eval_batch_size=3, **made)
    # The first evaluation also looks at padding and for frozen parts.
    trainer.predict(FORGET)
    calls = []
    model.model.encoder.conv1.register_forward_hook(lambda *_: calls.append(1))
    shared = trainer.predict(FORGET)
    assert len(calls) == 3
    monkeypatch.setattr(checked_model, "encoder_once", lambda _: contextlib.nullcontext())
    expected = trainer.predict(FORGET)
    assert len(calls) == 3 + 6
    assert (shared.predictions == expected.predictions).all()
    assert shared.metrics["test_loss"] == expected.metrics["test_loss"]


@pytest.mark.parametrize("given", [-1, "much"])
def test_the_option_is_a_size(given, tmp_path):
    with pytest.raises(ValueError, match="frozen_cache_gb is .* must be a number of gigabytes"):
        UnlearnConfig(output_dir=str(tmp_path), frozen_cache_gb=given)
