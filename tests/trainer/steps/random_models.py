"""Tiny models with randomness, their samples, and the cosines between a step and gradients."""

import copy

import torch
import transformers as T
from torch import nn

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
    "LayerDrop": (
        lambda: whisper(
            encoder_layers=2, decoder_layers=2, encoder_layerdrop=0.5, decoder_layerdrop=0.5
        ),
        utterances,
    ),
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


MODEL = {"granularity": "model"}
