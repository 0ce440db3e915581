"""The step is of the network that is evaluated, in models with randomness and in models that write
into their inputs."""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers as T
from peft import LoraConfig
from torch import nn

from hf_unlearn.trainer.batches.seeded import RETAIN, seeded
from hf_unlearn.trainer.samples import sample_access
from hf_unlearn.trainer.steps import randomness
from hf_unlearn.trainer.steps.randomness import FrozenRandomness
from tests.per_sample.harness import randomised
from tests.support.tiny import collate as collate_speech
from tests.support.tiny import make_trainer, tiny_whisper, utterances

N, K = 4, 3
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
DROPOUT = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
BERT = {**SMALL, **DROPOUT, "vocab_size": 50, "max_position_embeddings": 32, "num_labels": 3}
VISION = {**SMALL, "image_size": 16, "patch_size": 8, "num_labels": 3}
SPEECH = {
    **SMALL,
    "conv_dim": [8, 8],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 8],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "vocab_size": 12,
    "mask_time_prob": 0.5,
    "mask_time_length": 2,
    "mask_time_min_masks": 1,
    "layerdrop": 0.5,
}


def texts(n: int, seed: int) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "input_ids": torch.randint(4, 50, (9,), generator=generator),
            "labels": torch.tensor(i % 3),
        }
        for i in range(n)
    ]


def pictures(n: int, seed: int, size: int = 16) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "pixel_values": torch.randn(3, size, size, generator=generator),
            "labels": torch.tensor(i % 3),
        }
        for i in range(n)
    ]


def sounds(n: int, seed: int) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "input_values": torch.randn(800, generator=generator),
            "labels": torch.randint(1, 10, (2,), generator=generator),
        }
        for _ in range(n)
    ]


def stacked(samples: list[dict]) -> dict:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def speech(kind: str):
    config = getattr(T, f"{kind}Config")(
        **SPEECH, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0
    )
    return getattr(T, f"{kind}ForCTC")(config)


def whisper(**changes):
    return tiny_whisper(
        mask_time_prob=0.5,
        mask_time_length=5,
        mask_feature_prob=0.3,
        mask_feature_length=2,
        **changes,
    )


# How to make each model, and samples for it.
RANDOM = {
    "dropout": (lambda: T.BertForSequenceClassification(T.BertConfig(**BERT)), texts),
    "dropout in functions": (lambda: whisper(dropout=0.3, attention_dropout=0.1), utterances),
    "dropout of images": (
        lambda: T.ViTForImageClassification(T.ViTConfig(**VISION, **DROPOUT)),
        pictures,
    ),
    "SpecAugment": (lambda: whisper(apply_spec_augment=True), utterances),
    "LayerDrop": (lambda: whisper(encoder_layerdrop=0.5, decoder_layerdrop=0.5), utterances),
    **{
        kind: (lambda kind=kind: speech(kind), sounds)
        for kind in ("Wav2Vec2", "Hubert", "WavLM", "Data2VecAudio")
    },
    "stochastic depth": (
        lambda: T.ConvNextForImageClassification(
            T.ConvNextConfig(
                hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=3, drop_path_rate=0.5
            )
        ),
        lambda n, seed: pictures(n, seed, 32),
    ),
    "stochastic depth in windows": (
        lambda: T.SwinForImageClassification(
            T.SwinConfig(
                image_size=32,
                patch_size=4,
                embed_dim=8,
                depths=[2, 2],
                num_heads=[2, 2],
                window_size=4,
                num_labels=3,
                drop_path_rate=0.5,
            )
        ),
        lambda n, seed: pictures(n, seed, 32),
    ),
    "reversible": (
        lambda: T.ReformerForSequenceClassification(
            T.ReformerConfig(
                attention_head_size=8,
                attn_layers=["local", "local"],
                axial_pos_embds=False,
                max_position_embeddings=32,
                feed_forward_size=16,
                hidden_size=16,
                num_attention_heads=2,
                vocab_size=50,
                hidden_dropout_prob=0.3,
                local_attention_probs_dropout_prob=0.3,
                local_attn_chunk_length=3,
                num_labels=3,
                is_decoder=False,
            )
        ),
        texts,
    ),
}


@pytest.fixture
def warned(monkeypatch):
    """The warnings about per-sample computation and randomness."""
    messages = []
    for module in (randomness, sample_access):
        monkeypatch.setattr(module.logger, "warning", messages.append)
    return messages


def setting(name):
    make, samples = RANDOM[name]
    return (
        randomised(make()),
        samples(N, seed=1),
        samples(K, seed=2),
        collate_speech if samples is utterances else stacked,
    )


def cosine(step: torch.Tensor, gradients: list[torch.Tensor]) -> float:
    """The largest absolute cosine between the step and one of these gradients."""
    assert step.norm() > 0
    return max(float(abs(step @ g) / (step.norm() * g.norm())) for g in gradients)


def flat(gradients, parameters) -> torch.Tensor:
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten().double()
            for g, p in zip(gradients, parameters)
        ]
    )


def alone(model, batches: list[dict]) -> list[torch.Tensor]:
    """The gradients of batches of one sample, from plain autograd."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses = [model(**batch)["loss"] for batch in batches]
    return [
        flat(torch.autograd.grad(loss, parameters, allow_unused=True), parameters)
        for loss in losses
    ]


def evaluated(model):
    if model.config.model_type != "reformer":
        return model.eval()
    # Reformer has no backward pass in evaluation mode.
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model


def trained(model, tmp_path, forget, retain, collator, **options):
    """A trainer after its step, a copy of the model before it, and the change of the weights."""
    arguments = {"peft_config": options.pop("peft_config", None)}
    config = {"alpha": 0.0, "optim": "sgd", **options}
    trainer = make_trainer(model, tmp_path, forget, retain, False, arguments, collator, **config)
    before = copy.deepcopy(trainer.model)
    trainer.train()
    pairs = [
        (a, b) for a, b in zip(before.parameters(), trainer.model.parameters()) if b.requires_grad
    ]
    return (
        trainer,
        before,
        torch.cat([(a.detach().double() - b.detach().double()).flatten() for a, b in pairs]),
    )


def checkpointing(reentrant: bool) -> dict:
    return {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }


MODEL = {"granularity": "model"}
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
    assert not trainer.samples.one_by_one
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


class Writer(nn.Module):
    """Writes into its inputs, in training and in evaluation."""

    def __init__(self, writes: bool):
        super().__init__()
        self.linear, self.writes = nn.Linear(12, 3), writes

    def forward(self, x, labels, more):
        x = x.mul_(0.5) if self.writes else x * 0.5
        x = x + (more["shift"][0].add_(1.0) if self.writes else more["shift"][0] + 1.0)
        loss = nn.functional.cross_entropy(logits := self.linear(x), labels.clone())
        if self.writes:
            labels.fill_(-100)
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize("method", ["orthograd", "scrub", "influence"])
def test_inputs_are_not_written_into(tmp_path, method):
    """Neither into a batch that is used again, nor into the caller's own tensors."""
    generator = torch.Generator().manual_seed(0)
    samples = [
        {"x": torch.randn(1, 12, generator=generator), "labels": torch.tensor([i % 3])}
        for i in range(4)
    ]
    kept = copy.deepcopy(samples)
    weights, found = Writer(False).state_dict(), []

    # Returns the tensors of the samples themselves.
    def collator(given):
        return {**given[0], "more": {"shift": [given[0]["x"]]}}

    for writes in (True, False):
        model = Writer(writes)
        model.load_state_dict(weights)
        trainer, _, step = trained(
            model,
            tmp_path,
            samples[:2],
            samples[2:],
            collator,
            per_device_train_batch_size=1,
            granularity="model",
            gradient_accumulation_steps=2,
            per_device_retain_batch_size=1,
            per_device_eval_batch_size=1,
            max_steps=3,
            method=method,
            remove_unused_columns=False,
            learning_rate=0.1,
        )
        output = trainer.predict(samples)
        found.append((step, torch.tensor(output.label_ids), torch.tensor(output.predictions)))
        assert all(torch.equal(a[name], b[name]) for a, b in zip(samples, kept) for name in a)
    assert found[0][0].norm() > 0
    for writing, plain in zip(*found):
        assert torch.equal(writing, plain)


def test_spec_augment_masks_the_models_copy_of_a_batch(tmp_path):
    """SpecAugment writes into its inputs with freeze_randomness=False; the retain batch that the
    trainer keeps stays as it was collated."""
    model, forget, retain, collator = setting("SpecAugment")
    trainer, _, _ = trained(
        model, tmp_path, forget, retain, collator, freeze_randomness=False, max_steps=2
    )
    for name, values in trainer.step_runner.retain_batches.batch.items():
        assert {tuple(row.flatten().tolist()) for row in values} == {
            tuple(row.flatten().tolist()) for row in collator(retain)[name]
        }


def in_batch(model, batch: dict, k: int) -> list[torch.Tensor]:
    """The gradients of a classifier's samples, computed within their batch."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses = nn.functional.cross_entropy(
        model(**batch)["logits"], batch["labels"], reduction="none"
    )
    return [
        flat(torch.autograd.grad(losses[n], parameters, retain_graph=True), parameters)
        for n in range(k)
    ]


@pytest.mark.parametrize("way", [{}, {**checkpointing(False), **MODEL}])
def test_with_randomness_every_pass_draws_the_same_numbers(tmp_path, warned, way):
    model, forget, retain, _ = setting("dropout")
    trainer, before, step = trained(
        model, tmp_path, forget, retain, stacked, freeze_randomness=False, **way
    )
    batch = trainer.step_runner.retain_batches.batch
    with seeded(trainer.args.seed, RETAIN, 0, 0):
        drawn = in_batch(before.train(), batch, K)
    assert cosine(step, drawn) < 1e-5
    assert cosine(step, in_batch(before.eval(), batch, K)) > 1e-3
    assert not trainer.samples.one_by_one
    (message,) = warned
    assert "`residual` refers only to the network drawn for the retain batch" in message


class Noisy(nn.Module):
    """A classifier with dropout, or with noise that evaluation mode does not switch off.

    Args:
        slow: use the bias in a way that the engine has no rule for.
    """

    def __init__(self, slow: bool, dropout: float, noise: float):
        super().__init__()
        self.linear, self.dropout, self.head, self.bias = (
            nn.Linear(8, 8),
            nn.Dropout(dropout),
            nn.Linear(8, 3),
            nn.Parameter(torch.randn(8)),
        )
        self.slow, self.noise = slow, noise

    def forward(self, x, labels):
        x = self.dropout(self.linear(x + self.noise * torch.randn_like(x))).tanh()
        x = x + (torch.stack([self.bias, (x * 0).sum(0)]).sum(0) if self.slow else self.bias)
        logits = self.head(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize(("slow", "dropout", "noise"), [(True, 0.5, 0.0), (False, 0.0, 1.0)])
def test_a_sample_alone_draws_the_same_numbers_in_each_pass(tmp_path, warned, slow, dropout, noise):
    """If some samples must be computed alone, all are, because within a batch they would draw
    different numbers."""
    generator = torch.Generator().manual_seed(0)
    samples = [
        {"x": torch.randn(8, generator=generator), "labels": torch.tensor(i % 3)}
        for i in range(N + K)
    ]
    model = Noisy(slow, dropout, noise)
    options = {"freeze_randomness": not dropout, **MODEL, "learning_rate": 10.0}
    trainer, before, step = trained(model, tmp_path, samples[:N], samples[N:], stacked, **options)
    assert trainer.samples.one_by_one
    assert any("random numbers in evaluation mode, too" in one for one in warned) == bool(noise)
    rows = []
    for n in range(K):
        with seeded(trainer.args.seed, RETAIN, 0, n):
            rows += alone(
                before.train(),
                [
                    {
                        name: values[n : n + 1]
                        for name, values in trainer.step_runner.retain_batches.batch.items()
                    }
                ],
            )
    assert cosine(step, rows) < 1e-5


def test_the_generator_of_any_kind_of_gpu_is_seeded_and_restored(monkeypatch):
    """As on Apple's MPS, whose module of torch has no `device` context."""
    generator = torch.Generator().manual_seed(1)
    mps = SimpleNamespace(
        manual_seed=generator.manual_seed,
        get_rng_state=lambda device: generator.get_state(),
        set_rng_state=lambda state, device: generator.set_state(state),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: {"mps": mps}[device.type])
    before, drawn = generator.get_state(), []
    for _ in range(2):
        with seeded(3, RETAIN, device=torch.device("mps")):
            drawn.append(torch.randn(4, generator=generator))
        assert torch.equal(generator.get_state(), before)
    assert torch.equal(*drawn)


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
