"""Tiny models, data and trainers for all tests."""

import torch
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from hf_unlearn import UnlearnConfig, UnlearnTrainer

MELS, FRAMES, VOCABULARY = 8, 100, 60


def tiny_whisper(**changes) -> WhisperForConditionalGeneration:
    config = {
        "vocab_size": VOCABULARY,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_source_positions": FRAMES // 2,
        "max_target_positions": 20,
        "num_mel_bins": MELS,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
        **changes,
    }
    return WhisperForConditionalGeneration(WhisperConfig(**config))


def utterances(n: int, seed: int = 0, longest: int = 9) -> list[dict]:
    """Random features with labels of different lengths, so that batches are padded."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "input_features": torch.randn(MELS, FRAMES, generator=generator),
            "labels": torch.randint(
                4, VOCABULARY, (2 + (3 * i + seed) % (longest - 1),), generator=generator
            ),
        }
        for i in range(n)
    ]


def collate(features: list[dict]) -> dict[str, torch.Tensor]:
    labels = [feature["labels"] for feature in features]
    return {
        "input_features": torch.stack([feature["input_features"] for feature in features]),
        "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def tiny_vit(classes: int = 3) -> ViTForImageClassification:
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=8,
            patch_size=4,
            num_labels=classes,
        )
    )


def images(n: int, seed: int = 0, classes: int = 3) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "pixel_values": torch.randn(3, 8, 8, generator=generator),
            "labels": torch.tensor(i % classes),
        }
        for i in range(n)
    ]


def collate_images(features: list[dict]) -> dict[str, torch.Tensor]:
    return {
        name: torch.stack([feature[name] for feature in features])
        for name in ("pixel_values", "labels")
    }


def checkpointing(reentrant: bool) -> dict:
    """The training arguments of gradient checkpointing."""
    return {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }


FORGET, RETAIN = utterances(8, seed=1), utterances(5, seed=2)


def make_trainer(
    model,
    tmp_path,
    forget=FORGET,
    retain=RETAIN,
    optimizer=True,
    arguments=None,
    collator=collate,
    trainer=UnlearnTrainer,
    **config,
):
    """A trainer with SGD that subtracts the gradient itself, unless another optimizer is wanted.

    Args:
        optimizer: False for the optimizer of the options.
        arguments: further arguments of the trainer's class.
        config: fields of UnlearnConfig.
    """
    size = config.get("per_device_train_batch_size") or (
        len(forget) if hasattr(forget, "__len__") else 1
    )
    defaults = {
        "per_device_train_batch_size": size,
        "per_device_retain_batch_size": len(retain or [0]),
        "max_steps": 1,
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return trainer(
        model=model,
        args=UnlearnConfig(output_dir=str(tmp_path), **{**defaults, **config}),
        forget_dataset=forget,
        retain_dataset=retain,
        data_collator=collator,
        optimizers=(torch.optim.SGD(model.parameters(), lr=1.0), None)
        if optimizer
        else (None, None),
        **(arguments or {}),
    )
