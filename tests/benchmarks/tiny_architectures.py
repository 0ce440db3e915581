"""Tiny random models of transformers' architectures, and batches for them, by the names that their fields commonly have."""

import dataclasses
import inspect
import re

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto

from hf_unlearn.per_sample.reference import select_sample

HIDDEN, TEXT, IMAGE, MELS, FRAMES, SAMPLES = 32, 8, 32, 8, 64, 3200
LENGTHS = (8, 6, 7, 5, 8, 6)  # of the samples' texts
MOST = 6_000_000  # values that a model may have

# What fields of configurations are, by regular expressions of which the first that fits counts: whole numbers ...
NUMBERS = {
    r".*(?<!num)_token_id|.*_token_index|mask_index|unk_index": None,  # see `_token`
    r".*char_vocab_size|type_vocab_size|modality_type_vocab_size": 4,
    r".*vocab_size.*|n_vocab|vocab_offset": 128,
    r"num_labels": 3,
    r".*(kernel|stride|dilation|padding|groups?|factor|multiplier|ratio|period|offset|expand|scale|temperature).*": ...,
    r"(mamba_)?(d_conv|expand)|mamba_expand|chunk_size_feed_forward|num_channels|in_channels|in_chans": ...,
    r"num_encoder_blocks|num_stages|num_register_tokens": ...,
    r"embed_dim": 24,  # of Swin and its like: 3, 6, 12, 24 heads
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
    r".*(intermediate_size|ffn_dim|ffn_hidden_size|d_ff|n_inner|d_inner|mlp_dim|_feedforward.*)": 48,
    r"max_source_positions": FRAMES // 2,
    r"max_(source|target)_positions|.*positions?(_embeddings)?|n_positions|n_ctx|max_seq(uence)?_len(gth)?|block_size": 128,
    r".*(size|dim|d_model|n_embd|width|channels|d_state|rank|units|features|filters)": 32,
}
FIXED = {"head_dim": 8, "pad_token_id": 0}  # 4 heads make a hidden size of 32
# ... and fractions that make random numbers in training.
RANDOM = r".*(drop|jitter|mask_time_prob|mask_feature_prob|noise_std).*"
OFF = {"apply_spec_augment": False, "use_timm_backbone": False, "use_pretrained_backbone": False}

# What no rule finds: by the `model_type` of a configuration, fields and values.
FOUR = {"num_hidden_layers": 4}
CHANGES: dict[str, dict] = {
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "axk1": {"num_experts": 4, "n_group": 1, "topk_group": 1},
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere_compass_text": {
        **FOUR, "rope_parameters": {"full_attention": None, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"intermediate_size": 48, "num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    **dict.fromkeys(("efficientnet", "align_vision_model"), {
        "in_channels": [8, 8], "out_channels": [8, 16], "kernel_sizes": [3, 5], "strides": [1, 2], "expand_ratios": [1, 2],
        "num_block_repeats": [1, 1], "width_coefficient": 0.25, "depth_coefficient": 1.0, "hidden_dim": 16,
    }),
    "bit": {"num_groups": 4, "embedding_size": 8},
    "esm": {"vocab_size": 128, "pad_token_id": 0, "mask_token_id": 4},
    "esmc": {"num_key_value_heads": 4},
    "deit": {"encoder_stride": 8},
    "vit": {"encoder_stride": 8},
    "levit": {"image_size": 64},
    "longt5": {"decoder_start_token_id": 0},
    "switch_transformers": {"decoder_start_token_id": 0},
    "t5": {"decoder_start_token_id": 0},
    "led": {"attention_window": 4},
    "nystromformer": {"segment_means_seq_len": 8, "num_landmarks": 8},
    "perceiver": {"num_latents": 8, "d_latents": 32, "d_model": 32, "num_blocks": 1, "num_self_attends_per_block": 2},
    **dict.fromkeys(("swin", "swinv2", "donut-swin"), {"depths": [2, 2], "num_heads": [3, 6]}),
    "wav2vec2-bert": {"vocab_size": 32, "add_adapter": False},
    "wav2vec2-conformer": {"vocab_size": 32},
    "moonshine": {"pad_token_id": 0, "encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
    "textnet": {"image_size": 32, "hidden_sizes": [8, 8, 16, 24, 32], "stem_out_channels": 8},
    "hgnet_v2": {"stem_channels": [3, 8, 8], "stage_in_channels": [8, 16, 24, 32], "stage_mid_channels": [8, 8, 8, 8],
                 "stage_out_channels": [16, 24, 32, 32], "hidden_sizes": [16, 24, 32, 32]},
    **dict.fromkeys(
        ("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text", "paddleocr_vl_text", "video_llama_3_text"),
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}},
    ),
    **dict.fromkeys(
        ("glm4v_text", "glm4v_moe_text", "glm_ocr_text", "glm46v_text"),
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}},
    ),
    "qwen2_vl_vision": {"embed_dim": 32, "hidden_size": 32},
    **dict.fromkeys(("blip-2", "instructblip", "instructblipvideo"), {"image_token_index": 90}),
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    **dict.fromkeys(("llava_next", "llava_next_video"), {"image_grid_pinpoints": [[IMAGE, IMAGE]]}),
    "lilt": {"hidden_size": 24},
    "layoutlmv3": {"coordinate_size": 5, "shape_size": 6},
    "t5gemma2_encoder": {"mm_tokens_per_image": 4},
    **dict.fromkeys(("voxtral_encoder", "glmasr_encoder"), {"intermediate_size": 128}),
    **dict.fromkeys(
        ("autoformer", "informer", "time_series_transformer"),
        {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2], "num_time_features": 1, "loss": "nll"},
    ),
    **dict.fromkeys(("patchtst", "patchtsmixer"), {"context_length": 16, "prediction_length": 4, "patch_length": 4, "patch_stride": 4}),
    **dict.fromkeys(
        ("qwen2_5_vl", "exaone4_5_vision", "qwen2_5_vl_vision"), {"window_size": 32, "fullatt_block_indexes": [1], "out_hidden_size": 32}
    ),
    "gemma3": {"mm_tokens_per_image": 4},
    "udop": {"decoder_start_token_id": 0},
    "vipllava": {"vision_feature_layers": [-1, -2]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": FOUR,
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "longcat_flash": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", "attention"], "n_groups": 1},
    "qwen3_5_moe_text": FOUR,
    "qwen3_5_text": FOUR,
    "qwen3_next": FOUR,
    "qwen4_exp_text": {
        **FOUR, "indexer_budget": 4, "indexer_compress_ratio": 2, "indexer_n_heads": 2, "indexer_head_dim": 8,
        "indexer_block_size": 2,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "is_decoder": True, "axial_pos_shape": [2, 4], "axial_pos_embds_dim": [16, 16], "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4, "attn_layers": ["local", "local"], "attention_head_size": 8,
    },
    "xlstm": {"mode": "train", "num_heads": 2, "chunk_size": 4},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["mamba", "hybrid"], "n_mamba_heads": 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
}  # fmt: skip

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


MORE = {  # what transformers' tables do not have
    "time series": {
        "autoformer": "AutoformerForPrediction",
        "informer": "InformerForPrediction",
        "time_series_transformer": "TimeSeriesTransformerForPrediction",
        "patchtst": "PatchTSTForPrediction",
        "patchtsmixer": "PatchTSMixerForPrediction",
    },
}


def classes_of(task: str) -> dict[str, str]:
    """Model type -> name of its class for a task."""
    names = getattr(modeling_auto, f"MODEL_FOR_{TASKS[task]}_MAPPING_NAMES")
    return {kind: found if isinstance(found, str) else found[0] for kind, found in names.items()} | MORE.get(task, {})


def variants(name: str) -> list[dict]:
    """Options that a class is built with: mixtures of experts have several ways to compute them."""
    if not getattr(transformers, name)._can_set_experts_implementation():
        return [{}]
    return [{"experts_implementation": way} for way in ("grouped_mm", "eager", "batched_mm")]


# ---- configurations -------------------------------------------------------------------------------------------------


def _token(name: str) -> int:
    common = {"pad": 0, "bos": 1, "eos": 2, "decoder_start": 1, "forced_bos": 1, "forced_eos": 2, "sep": 2, "cls": 1}
    word = re.sub("_token_(id|index)$", "", name)
    return common[word] if word in common else 90 + sum(map(ord, word)) % 37


def shrunk(config: PreTrainedConfig) -> PreTrainedConfig:
    """A configuration of the same kind with small numbers, and without randomness."""
    given = {}
    for field in dataclasses.fields(config):
        try:
            value = getattr(config, field.name, None)
        except RuntimeError:  # it differs between layers
            value = field.default
        if isinstance(field.default, str) and not isinstance(value, str):  # "auto"
            continue
        if field.name in (config.sub_configs or {}):
            if isinstance(value, PreTrainedConfig):
                given[field.name] = shrunk(value)
        elif field.name in FIXED:
            given[field.name] = FIXED[field.name]
        elif field.default is not None or isinstance(value, (int, str)) and _known(field.name):
            small = _small(field.name, value)
            if small is not value or field.default is not dataclasses.MISSING and field.default != value:
                given[field.name] = small
    given |= {name: value for name, value in OFF.items() if hasattr(config, name)}
    if "kv_lora_rank" in given:  # each head has keys of its own
        given["num_key_value_heads"] = 4
    given |= CHANGES.get(config.model_type, {})
    return type(config)(**given)


def _known(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in NUMBERS)


def _small(name: str, value):
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float) and re.fullmatch(RANDOM, name):
        return 0.0
    pattern = next((pattern for pattern in NUMBERS if re.fullmatch(pattern, name)), None)
    if isinstance(value, int):
        if pattern is None or NUMBERS[pattern] is ... or value < 0:
            return value
        return _token(name) if NUMBERS[pattern] is None else min(value, NUMBERS[pattern])
    if isinstance(value, (list, tuple)) and value and all(type(x) is int for x in value):
        if name in ("depths", "num_block_repeats"):
            return type(value)(min(x, 2) for x in value)
        if max(value) >= 32 and not re.search("index|indices|ids|size$|kernel|attn", name):
            unit = 4 if max(value) <= 512 else 8
            return type(value)(max(8, x // unit // 8 * 8) for x in value)
    return value


def tiny_model(kind: str, name: str, **options) -> nn.Module:
    """A model by its type and the name of its class."""
    make = getattr(transformers, name)
    config = shrunk((make.config_class or CONFIG_MAPPING[kind])())
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in make._from_config(config).parameters())
    except Exception:  # not all can be made there
        size = 0
    if size > MOST:
        raise ValueError(f"{size / 1e6:.0f} million parameters")
    return make._from_config(config, **options)


# ---- batches --------------------------------------------------------------------------------------------------------


def batch_for(model: nn.Module, task: str, k: int) -> dict:
    """Random inputs and labels of k samples for a model, of those that its forward pass takes."""
    takes = [name for name in inspect.signature(model.forward).parameters if name in INPUTS]
    batch = {}
    for name in takes:
        value = INPUTS[name](model, task, k)
        if value is not None:
            batch[name] = value
    return with_places(model, batch, k)


def with_places(model: nn.Module, batch: dict, k: int) -> dict:
    """Puts as many image tokens in front of the texts as the model says that it wants."""
    if "input_ids" not in batch or not any(name.startswith(("pixel_values", "input_features")) for name in batch):
        return batch
    wanted = [_wanted(model, batch, n, k) for n in range(k)]
    if None in wanted:
        return batch
    fronted = _fronted(model, batch, wanted)
    # Some count the values of the images' features, each of which fills a position.
    return fronted if _wanted(model, fronted, 0, k) is None else _fronted(model, batch, [n // HIDDEN for n in wanted])


def _wanted(model: nn.Module, batch: dict, n: int, k: int) -> int | None:
    """So many places for images a sample should have; None where it is content."""
    try:
        model(**select_sample(batch, n, k))
        return None
    except ValueError as wanted:
        found = re.search(r"tokens: (\d+), features:? (\d+)", str(wanted))
        if found is None:
            raise
        return int(found[2])


def _fronted(model: nn.Module, batch: dict, places: list[int]) -> dict:
    token = next(found for name in PLACES if (found := getattr(model.config, name, None)) is not None)
    front = torch.where(torch.arange(max(places)) < torch.tensor(places)[:, None], token, 7)
    texts = {"input_ids": front, "attention_mask": torch.ones_like(front), "labels": torch.full_like(front, -100)}
    changed = {name for name in texts if name in batch and batch[name].ndim == 2}
    batch = batch | {name: torch.cat([texts[name], batch[name]], 1) for name in changed}
    kinds = {
        name for name in inspect.signature(model.forward).parameters if name in ("mm_token_type_ids", "token_type_ids")
    }
    return batch | dict.fromkeys(kinds, (batch["input_ids"] == token).long())


PLACES = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")
IMAGES = (
    "image classification",
    "object detection",
    "semantic segmentation",
    "depth estimation",
    "masked image",
    "video classification",
)
SOUNDS = ("CTC", "audio classification", "speech to text")
NO_TEXT = (*IMAGES, *SOUNDS, "time series")


def _behind(k: int) -> Tensor:
    """(k, TEXT), True behind the end of each text."""
    return torch.arange(TEXT) >= torch.tensor(LENGTHS[:k])[:, None]


def _text(model, task, k):
    if task in NO_TEXT:
        return None
    ids = torch.randint(5, 30, (k, 2, TEXT) if task == "multiple choice" else (k, TEXT))
    if task == "text classification":  # some look for the end
        ids[torch.arange(k), torch.tensor(LENGTHS[:k]) - 1] = _token("eos_token_id")
    return ids


def _mask(model, task, k):
    if task in IMAGES or task == "time series":
        return None
    if task in SOUNDS and "spectrogram" in model.config.model_type:
        return None
    if task in SOUNDS:
        length = FRAMES if "input_features" in inspect.signature(model.forward).parameters else SAMPLES
        return (torch.arange(length) < length - torch.arange(k)[:, None] * length // 16).long()
    mask = (~_behind(k)).long()
    return mask[:, None].repeat(1, 2, 1) if task == "multiple choice" else mask


def _boxes(model, task, k):
    corner = torch.randint(0, 50, (k, TEXT, 2))
    return torch.cat([corner, corner + torch.randint(1, 50, (k, TEXT, 2))], -1)


def _labels(model, task, k):
    classes = getattr(model.config, "num_labels", 3)
    if task == "object detection":
        boxes = torch.rand(k, 2, 4) * 0.4 + 0.3
        return [{"class_labels": torch.tensor([n % classes, 1]), "boxes": boxes[n]} for n in range(k)]
    if task.endswith("classification") and task != "token classification":
        return torch.arange(k) % classes
    if task == "semantic segmentation":
        return torch.randint(0, classes, (k, IMAGE, IMAGE))
    if task == "depth estimation":
        return torch.rand(k, IMAGE, IMAGE)
    if task == "multiple choice":
        return torch.arange(k) % 2
    if task == "visual question answering" and model.config.model_type == "vilt":
        return torch.rand(k, classes)
    if task == "CTC":
        return torch.randint(5, 30, (k, 3)).masked_fill(
            torch.arange(3) >= torch.tensor((3, 2, 3, 1, 2, 3)[:k])[:, None], -100
        )
    most = classes if task == "token classification" else 30
    return torch.randint(min(5, most - 1), most, (k, TEXT)).masked_fill(_behind(k), -100)


def _image(model, task, k):
    config = vision_of(model.config)
    if "image_grid_thw" in inspect.signature(model.forward).parameters:
        patch = (getattr(config, "patch_size", 8), getattr(config, "temporal_patch_size", 1))
        channels = getattr(config, "in_channels", getattr(config, "in_chans", 3))
        return torch.randn(int(_grid(model, task, k).prod(1).sum()), channels * patch[1] * patch[0] ** 2)
    size = getattr(config, "image_size", IMAGE) or IMAGE
    size = size if isinstance(size, (tuple, list)) else (size, size)
    channels = getattr(config, "num_channels", 3)
    if "spatial_shapes" in inspect.signature(model.forward).parameters:
        return torch.randn(k, 16, channels * config.patch_size**2)
    if model.config.model_type in SEVERAL:
        return torch.randn(k, SEVERAL[model.config.model_type], channels, *size)
    if task == "video classification":
        frames = getattr(config, "num_frames", getattr(config, "frames_per_clip", 2))
        return torch.randn(k, frames, channels, *size)
    return torch.randn(k, channels if isinstance(channels, int) else 3, *size)


# Models that take several images for each sample.
SEVERAL = {
    **dict.fromkeys(("idefics", "idefics2", "idefics3", "smolvlm", "modernvbert", "ultravbert", "instructblipvideo"), 1),
    "llava_next": 2, "llava_next_video": 2,
}  # fmt: skip


SIZED = ("mistral3", "lighton_ocr", "mistral_large4", "llava_next", "llava_next_video", "llava_onevision")


def vision_of(config):
    return next((c for name in ("vision_config", "backbone_config") if (c := getattr(config, name, None))), config)


def _waves(model, task, k):
    if "spectrogram" in model.config.model_type:
        return torch.randn(k, model.config.max_length, model.config.num_mel_bins)
    return torch.randn(k, SAMPLES)


def _features(model, task, k):
    encoder = (
        getattr(model.config, "audio_config", None) or getattr(model.config, "encoder_config", None) or model.config
    )
    width = next(
        (
            w
            for name in ("num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "input_dim")
            if (w := getattr(encoder, name, None))
        ),
        MELS,
    )
    if model.config.model_type in MELS_FIRST:
        return torch.randn(k, width, FRAMES)
    return torch.randn(k, FRAMES, width)


MELS_FIRST = (
    "whisper", "qwen2_audio", "voxtral", "voxtral_realtime", "audioflamingo3", "glmasr", "musicflamingo", "qwen3_asr",
    "moss_transcribe_diarize",
)  # fmt: skip


def _grid(model, task, k):
    return torch.tensor([[1, 4, 4 + 4 * (n % 2)] for n in range(k)])


def _pixel_mask(model, k):
    if "spatial_shapes" in inspect.signature(model.forward).parameters:
        return torch.ones(k, 16, dtype=torch.long)


def _masked(model, k):
    return torch.arange((IMAGE // model.config.patch_size) ** 2).repeat(k, 1) % torch.arange(2, 2 + k)[:, None] == 0


INPUTS = {
    "input_ids": _text,
    "attention_mask": _mask,
    "bbox": _boxes,
    "pixel_values": _image,
    "image_grid_thw": _grid,
    "input_values": _waves,
    "input_features": _features,
    "pixel_values_videos": lambda model, task, k: (
        _image(model, task, k) if "video" in task or "video" in model.config.model_type else None
    ),
    "input_features_mask": lambda model, task, k: torch.ones(k, FRAMES, dtype=torch.long),
    "feature_attention_mask": lambda model, task, k: torch.ones(k, FRAMES, dtype=torch.long),
    "bool_masked_pos": lambda model, task, k: _masked(model, k) if task == "masked image" else None,
    "labels": _labels,
    "start_positions": lambda model, task, k: torch.arange(k) % 4,
    "end_positions": lambda model, task, k: torch.arange(k) % 4 + 1,
    "return_loss": lambda model, task, k: True if task == "image and text contrast" else None,
    "image_sizes": lambda model, task, k: (
        torch.tensor([[IMAGE, IMAGE]] * k) if model.config.model_type in SIZED else None
    ),
    "image_merge_sizes": lambda model, task, k: torch.ones(k, dtype=torch.long),
    "flattened_patches": lambda model, task, k: torch.randn(
        k, 8, model.config.vision_config.patch_embed_hidden_size + 2
    ),
    "past_values": lambda model, task, k: torch.randn(k, 16),
    "past_time_features": lambda model, task, k: torch.randn(k, 10, 1),
    "past_observed_mask": lambda model, task, k: None,
    "future_values": lambda model, task, k: torch.randn(k, 4),
    "future_time_features": lambda model, task, k: torch.randn(k, 4, 1),
    "spatial_shapes": lambda model, task, k: torch.tensor([[4, 4]] * k),
    "pixel_attention_mask": lambda model, task, k: _pixel_mask(model, k),
    "qformer_input_ids": _text,
    "qformer_attention_mask": _mask,
}
