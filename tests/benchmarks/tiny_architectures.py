"""Tiny random models of transformers' architectures. Rules on the names of fields shrink their
configurations."""

import dataclasses
import re
from pathlib import Path

import torch
import transformers
import yaml
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto

HIDDEN, IMAGE, MELS, FRAMES, CLASSES = 32, 32, 8, 64, 3
# The largest number of parameters that a model may have.
MAX_PARAMETERS = 6_000_000

# Largest value of an integer field, by regular expressions on its name; the first match counts.
# `...` keeps the default. None is for token numbers: see `token`.
NUMBERS = {
    r".*(?<!num)_token_id|.*_token_index|mask_index|unk_index": None,
    r".*char_vocab_size|type_vocab_size|modality_type_vocab_size": 4,
    r".*vocab_size.*|n_vocab|vocab_offset": 128,
    r"num_labels": CLASSES,
    r".*(kernel|stride|dilation|padding|groups?|factor|multiplier|ratio|period).*": ...,
    r".*(offset|expand|scale|temperature).*": ...,
    r"(mamba_)?(d_conv|expand)|mamba_expand|chunk_size_feed_forward": ...,
    r"num_channels|in_channels|in_chans": ...,
    r"num_encoder_blocks|num_stages|num_register_tokens": ...,
    r"num_queries|two_stage_num_proposals": 4,
    # Swin and similar models have 3, 6, 12 and 24 heads.
    r"embed_dim": 24,
    r"image_size|pretrain_image_size|input_image_size": IMAGE,
    r"patch_size": 8,
    r"window_size": 4,
    r".*num_mel_bins|feature_size|input_feat_per_channel": MELS,
    r".*head_dim.*|d_kv|d_head|.*_kv_channels|rotary_dim": 8,
    r".*(num_)?key_value_heads|.*kv_heads|.*num_kv_heads|multi_query_groups": 2,
    r"mamba_n_heads|mamba_num_heads|n_mamba_heads": 8,
    r".*heads|n_head": 4,
    r"(num_)?experts_per_to(k|ken)|.*top_?k|moe_k|num_selects": 2,
    r".*(num_|n_).*experts|expert_num|.*num_experts|num_local_experts": 4,
    r"n_group|topk_group": 1,
    r".*(layers|n_layer|depth|blocks|num_hidden_layers)": 2,
    r".*(intermediate_size|ffn_dim|ffn_hidden_size|d_ff|n_inner|d_inner|mlp_dim)": 48,
    r".*_feedforward.*": 48,
    r"max_source_positions": FRAMES // 2,
    r"max_(source|target)_positions|.*positions?(_embeddings)?|n_positions|n_ctx": 128,
    r"max_seq(uence)?_len(gth)?|block_size": 128,
    r".*(size|dim|d_model|n_embd|width|channels|d_state|rank|units|features|filters)": 32,
}
# Fields with the same value in every model. 4 heads of 8 make a hidden size of 32.
FIXED = {"head_dim": 8, "pad_token_id": 0}
# Rates of randomness in training, which are set to 0.
RANDOM = r".*(drop|jitter|mask_time_prob|mask_feature_prob|noise_std).*"
SWITCHED_OFF = {
    "apply_spec_augment": False,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
}

# Fields and values that no rule gives, by the `model_type` of a configuration or the name of a
# model class.
CHANGES = {
    kind: values
    for kinds, values in yaml.safe_load(
        Path(__file__).with_name("architectures.yaml").read_text()
    ).items()
    for kind in kinds.split(", ")
}

TASKS = {
    "causal language model": "CAUSAL_LM",
    "masked language model": "MASKED_LM",
    "sequence to sequence": "SEQ_TO_SEQ_CAUSAL_LM",
    "image and text": "IMAGE_TEXT_TO_TEXT",
    "multimodal": "MULTIMODAL_LM",
    "image classification": "IMAGE_CLASSIFICATION",
    "semantic segmentation": "SEMANTIC_SEGMENTATION",
    "depth estimation": "DEPTH_ESTIMATION",
    "masked image": "MASKED_IMAGE_MODELING",
    "video classification": "VIDEO_CLASSIFICATION",
    "speech to text": "SPEECH_SEQ_2_SEQ",
    "CTC": "CTC",
    "audio classification": "AUDIO_CLASSIFICATION",
    "time series": "TIME_SERIES_PREDICTION",
    "object detection": "OBJECT_DETECTION",
    "text classification": "SEQUENCE_CLASSIFICATION",
    "token classification": "TOKEN_CLASSIFICATION",
    "question answering": "QUESTION_ANSWERING",
    "multiple choice": "MULTIPLE_CHOICE",
    "visual question answering": "VISUAL_QUESTION_ANSWERING",
    "image and text contrast": "ZERO_SHOT_IMAGE_CLASSIFICATION",
}


# Model classes that the tables of transformers lack.
MORE = {
    "time series": {
        "autoformer": "AutoformerForPrediction",
        "informer": "InformerForPrediction",
        "time_series_transformer": "TimeSeriesTransformerForPrediction",
        "patchtst": "PatchTSTForPrediction",
        "patchtsmixer": "PatchTSMixerForPrediction",
    },
}


def classes_of(task: str) -> dict[str, str]:
    """Model type -> name of its model class for a task."""
    names = getattr(modeling_auto, f"MODEL_FOR_{TASKS[task]}_MAPPING_NAMES")
    return {
        kind: found if isinstance(found, str) else found[0] for kind, found in names.items()
    } | MORE.get(task, {})


def variants(name: str) -> list[dict]:
    """The options to build a class with: mixtures of experts have several implementations."""
    if not getattr(transformers, name)._can_set_experts_implementation():
        return [{}]
    return [{"experts_implementation": way} for way in ("grouped_mm", "eager", "batched_mm")]


# ---- configurations ------------------------------------------------------------------------------


def token(name: str) -> int:
    """The token number for a field such as eos_token_id."""
    common = {
        "pad": 0,
        "bos": 1,
        "eos": 2,
        "decoder_start": 1,
        "forced_bos": 1,
        "forced_eos": 2,
        "sep": 2,
        "cls": 1,
    }
    word = re.sub("_token_(id|index)$", "", name)
    return common[word] if word in common else 90 + sum(map(ord, word)) % 37


def shrunk(config: PreTrainedConfig, model: str = "") -> PreTrainedConfig:
    """A configuration of the same kind with small numbers and without randomness.

    Args:
        model: name of the model class, for its entry in CHANGES.
    """
    fields = {}
    for field in dataclasses.fields(config):
        try:
            value = getattr(config, field.name, None)
        except RuntimeError:
            # The value differs between layers.
            value = field.default
        # "auto" that has been resolved.
        if isinstance(field.default, str) and not isinstance(value, str):
            continue
        if field.name in (config.sub_configs or {}):
            if isinstance(value, PreTrainedConfig):
                fields[field.name] = shrunk(value)
        elif field.name in FIXED:
            fields[field.name] = FIXED[field.name]
        elif field.default is not None or isinstance(value, (int, str)) and _known(field.name):
            small = _small(field.name, value)
            if (
                small is not value
                or field.default is not dataclasses.MISSING
                and field.default != value
            ):
                fields[field.name] = small
    fields |= {name: value for name, value in SWITCHED_OFF.items() if hasattr(config, name)}
    # With low-rank keys and values, each head has keys of its own.
    if "kv_lora_rank" in fields:
        fields["num_key_value_heads"] = 4
    fields |= CHANGES.get(config.model_type, {}) | CHANGES.get(model, {})
    return type(config)(**fields)


def _known(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in NUMBERS)


def _small(name: str, value: object) -> object:
    """The value of a field in a tiny model; the value itself if no rule changes it."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float) and re.fullmatch(RANDOM, name):
        return 0.0
    if isinstance(value, (list, tuple)) and re.fullmatch(RANDOM, name):
        return type(value)(0.0 for _ in value)
    pattern = next((pattern for pattern in NUMBERS if re.fullmatch(pattern, name)), None)
    if isinstance(value, int):
        if pattern is None or NUMBERS[pattern] is ... or value < 0:
            return value
        return token(name) if NUMBERS[pattern] is None else min(value, NUMBERS[pattern])
    if isinstance(value, (list, tuple)) and value and all(type(x) is int for x in value):
        if name == "image_size":
            return type(value)(IMAGE for _ in value)
        if name in ("depths", "num_block_repeats"):
            return type(value)(min(x, 2) for x in value)
        if max(value) >= 32 and not re.search("index|indices|ids|size$|kernel|attn", name):
            unit = 4 if max(value) <= 512 else 8
            return type(value)(max(8, x // unit // 8 * 8) for x in value)
    return value


def tiny_model(kind: str, name: str, **options) -> nn.Module:
    """A tiny random model.

    Args:
        kind: model type, "mixtral".
        name: name of the model class, "MixtralForCausalLM".

    Raises:
        ValueError: the model is not tiny.
    """
    make = getattr(transformers, name)
    config = shrunk((make.config_class or CONFIG_MAPPING[kind])(), name)
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in make._from_config(config).parameters())
    except Exception:
        # Some models cannot be built on the meta device.
        size = 0
    if size > MAX_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} million parameters")
    model = make._from_config(config, **options)
    for module in model.modules():
        # Some dropout rates are not in the configuration.
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        if isinstance(module, _BatchNorm):
            module.register_forward_hook(_make_gradient_contiguous)
    return model


def _make_gradient_contiguous(module: nn.Module, inputs: tuple, output: Tensor) -> None:
    """Forward hook that gives a batch norm a gradient with contiguous memory.

    Otherwise torch 2.13 computes wrong gradients on CPUs for batches of one sample, of which brute
    force is made.
    """
    if output.requires_grad:
        output.register_hook(Tensor.contiguous)
