"""Random inputs and labels for tiny models, by the names of their forward passes' arguments."""

import inspect
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_unlearn.per_sample.reference import select_sample
from tests.benchmarks.tiny_architectures import FRAMES, HIDDEN, IMAGE, MELS, token

Input = Tensor | list | bool | None

# Lengths of texts, sounds, and the past and the future of time series.
TEXT, SAMPLES, PAST, FUTURE = 8, 3200, 16, 4
# Length of each sample's text.
LENGTHS = (8, 6, 7, 5, 8, 6)
# Tasks on images, on sounds, with sounds left out, and without texts.
IMAGES = (
    "image classification",
    "object detection",
    "semantic segmentation",
    "depth estimation",
    "masked image",
    "video classification",
)
SOUNDS = ("CTC", "audio classification", "speech to text")
SILENT = ("causal language model", "image and text")
NO_TEXT = (*IMAGES, *SOUNDS, "time series")
# Models whose spectrograms are (mel bins, frames) instead of (frames, mel bins).
MELS_FIRST = (
    "whisper",
    "qwen2_audio",
    "voxtral",
    "voxtral_realtime",
    "audioflamingo3",
    "glmasr",
    "musicflamingo",
    "qwen3_asr",
    "moss_transcribe_diarize",
)
# Models with an axis for several images per sample, and the sizes of these axes.
ONE_IMAGE = (
    "idefics",
    "idefics2",
    "idefics3",
    "smolvlm",
    "modernvbert",
    "ultravbert",
    "instructblipvideo",
)
TILED = ("llava_next", "llava_next_video", "llava_onevision")
IMAGE_AXES = {
    **dict.fromkeys(ONE_IMAGE, (1,)),
    **dict.fromkeys(TILED, (2,)),
    "mllama": (1, 4),
}
# Models that also take the sizes of the images.
SIZED = (
    "mistral3",
    "lighton_ocr",
    "mistral_large4",
    "llava_next",
    "llava_next_video",
    "llava_onevision",
    "emu3",
)
# Names of the field that holds the number of mel bins.
WIDTHS = ("num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "input_dim")
# Models whose inputs are made from labels with several codes at each position.
CODES = ("musicgen_decoder", "musicgen_melody_decoder")
# Models with a token and several codes at each position.
WITH_CODES = ("kyutai_speech_to_text",)
# Number of sound positions in the text, for models whose error does not name it.
SOUND_POSITIONS = {
    "qwen2_audio": FRAMES // 4,
    "granite_speech": 15,
    "granite_speech_plus": 15,
    "vibevoice_asr": SAMPLES // 80,
}
# Number of frames that are stacked to one.
STACKED = {"granite_speech5_ctc": 4, "fun_asr_nano": 7}
# Number of frames of models with a fixed one: a multiple of 100, the chunk size in the code.
FIXED_FRAMES = {"qwen3_asr": 200}
# Models whose patches are not flattened.
SQUARE = ("paddleocr_vl", "kimi_k25")
# Names of the token that images and sounds replace.
PLACEHOLDERS = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")


def takes(model: nn.Module) -> list[str]:
    """The names of the arguments of a forward pass.

    It may hand on labels to the forward pass of its base class.
    """
    names, inherited = (
        inspect.signature(of.forward).parameters for of in (model, super(type(model), model))
    )
    return list(names) + [name for name in ("labels",) if name in inherited and name not in names]


def batch_for(model: nn.Module, task: str, k: int) -> dict:
    """Random inputs and labels of k samples for a model, as its forward pass takes them."""
    inputs = {name: INPUTS[name](model, task, k) for name in takes(model) if name in INPUTS}
    batch = {name: value for name, value in inputs.items() if value is not None}
    return with_placeholders(model, batch, k)


# ---- image positions in texts --------------------------------------------------------------------


def with_placeholders(model: nn.Module, batch: dict, k: int) -> dict:
    """Puts as many image tokens before the texts as the model asks for in its error message."""
    if model.config.model_type in SOUND_POSITIONS:
        return _prefixed(model, batch, [SOUND_POSITIONS[model.config.model_type]] * k)
    if "input_ids" not in batch or not any(
        name.startswith(("pixel_values", "input_features")) for name in batch
    ):
        return batch
    wanted = [_missing_positions(model, batch, n, k) for n in range(k)]
    if None in wanted:
        return batch
    prefixed = _prefixed(model, batch, wanted)
    # Some models name the number of values in the images' features instead of positions.
    return (
        prefixed
        if _missing_positions(model, prefixed, 0, k) is None
        else _prefixed(model, batch, [n // HIDDEN for n in wanted])
    )


def _missing_positions(model: nn.Module, batch: dict, n: int, k: int) -> int | None:
    """The number of image positions that a sample needs; None if the model accepts it."""
    try:
        model(**select_sample(batch, n, k))
        return None
    except ValueError as wanted:
        match = re.search(r"tokens: (\d+), features:? (\d+)", str(wanted))
        if match is None:
            raise
        return int(match[2])


def _prefixed(model: nn.Module, batch: dict, counts: list[int]) -> dict:
    image = next(
        token_id
        for name in PLACEHOLDERS
        if (token_id := getattr(model.config, name, None)) is not None
    )
    front = torch.where(torch.arange(max(counts)) < torch.tensor(counts)[:, None], image, 7)
    texts = {
        "input_ids": front,
        "attention_mask": torch.ones_like(front),
        "labels": torch.full_like(front, -100),
    }
    changed = {name for name in texts if name in batch and batch[name].ndim == 2}
    batch = batch | {name: torch.cat([texts[name], batch[name]], 1) for name in changed}
    kinds = {name for name in takes(model) if name in ("mm_token_type_ids", "token_type_ids")}
    return batch | dict.fromkeys(kinds, (batch["input_ids"] == image).long())


# ---- inputs --------------------------------------------------------------------------------------


def _after_end(k: int) -> Tensor:
    """(k, TEXT), True after the end of each text."""
    return torch.arange(TEXT) >= torch.tensor(LENGTHS[:k])[:, None]


def _text(model: nn.Module, task: str, k: int) -> Input:
    silent = model.main_input_name != "input_ids" or "input_features" in takes(model)
    if task in NO_TEXT and silent or model.config.model_type in CODES:
        return None
    if model.config.model_type in WITH_CODES:
        return torch.randint(5, 30, (k, TEXT, 1 + model.config.num_codebooks))
    ids = torch.randint(5, 30, (k, 2, TEXT) if task == "multiple choice" else (k, TEXT))
    # Some models classify at the end token.
    if task == "text classification":
        ids[torch.arange(k), torch.tensor(LENGTHS[:k]) - 1] = token("eos_token_id")
    return ids


def _mask(model: nn.Module, task: str, k: int) -> Input:
    if task in IMAGES or task == "time series" or "spectrogram" in model.config.model_type:
        return None
    lengths = {"input_values": SAMPLES, "input_features": FRAMES}
    if task in SOUNDS and (
        length := next((lengths[name] for name in lengths if name in takes(model)), 0)
    ):
        return (torch.arange(length) < length - torch.arange(k)[:, None] * length // 16).long()
    mask = (~_after_end(k)).long()
    return mask[:, None].repeat(1, 2, 1) if task == "multiple choice" else mask


def _seen_by_all(model: nn.Module, task: str, k: int) -> Input:
    return torch.zeros_like(_mask(model, task, k)).index_fill(-1, torch.tensor(1), 1)


def _boxes(model: nn.Module, task: str, k: int) -> Input:
    corner = torch.randint(0, 50, (k, TEXT, 2))
    return torch.cat([corner, corner + torch.randint(1, 50, (k, TEXT, 2))], -1)


def _image(model: nn.Module, task: str, k: int) -> Input:
    if getattr(model.config, "vision_config", model.config) is None:
        return None
    config = vision_of(model.config)
    channels = next(
        (
            c
            for name in ("in_channels", "in_chans", "num_channels")
            if (c := getattr(config, name, 0))
        ),
        3,
    )
    channels = channels if isinstance(channels, int) else 3
    if "image_grid_thw" in takes(model):
        line = (
            channels
            * getattr(config, "temporal_patch_size", 1)
            * getattr(config, "patch_size", 8) ** 2
        )
        shape = (channels, config.patch_size, -1) if model.config.model_type in SQUARE else (-1,)
        return torch.randn(int(_grid(model, task, k).prod(1).sum()), line).unflatten(1, shape)
    size = getattr(config, "image_size", IMAGE) or IMAGE
    size = size if isinstance(size, (tuple, list)) else (size, size)
    if "spatial_shapes" in takes(model) or model.config.model_type == "fuyu":
        return torch.randn(k, 16, channels * config.patch_size**2)
    if model.config.model_type in IMAGE_AXES:
        return torch.randn(k, *IMAGE_AXES[model.config.model_type], channels, *size)
    if task == "video classification":
        frames = getattr(config, "num_frames", getattr(config, "frames_per_clip", 2))
        return torch.randn(k, frames, channels, *size)
    return torch.randn(k, channels, *size)


def _flattened(model: nn.Module, task: str, k: int) -> Input:
    """(k, 8, 2 + values): patches, each after its row and column."""
    positions = torch.stack([torch.arange(8) // 4, torch.arange(8) % 4], -1)
    values = torch.randn(k, 8, model.config.vision_config.patch_embed_hidden_size)
    return torch.cat([positions.repeat(k, 1, 1), values], -1)


def vision_of(config: PreTrainedConfig) -> PreTrainedConfig:
    """The part of a configuration that is about images."""
    return next(
        (c for name in ("vision_config", "backbone_config") if (c := getattr(config, name, None))),
        config,
    )


def _grid(model: nn.Module, task: str, k: int) -> Input:
    return torch.tensor([[1, 4, 4 + 4 * (n % 2)] for n in range(k)])


def _video(model: nn.Module, task: str, k: int) -> Input:
    return _image(model, task, k) if task == "video classification" else None


def _masked(model: nn.Module, task: str, k: int) -> Input:
    if task != "masked image":
        return None
    patches = (IMAGE // model.config.patch_size) ** 2
    return torch.arange(patches).repeat(k, 1) % torch.arange(2, 2 + k)[:, None] == 0


def _waves(model: nn.Module, task: str, k: int) -> Input:
    if "spectrogram" in model.config.model_type:
        return torch.randn(k, model.config.max_length, model.config.num_mel_bins)
    return (
        torch.randn(k, 1, SAMPLES)
        if model.config.model_type == "vibevoice_asr"
        else torch.randn(k, SAMPLES)
    )


def _features(model: nn.Module, task: str, k: int) -> Input:
    if task in SILENT or "input_values" in takes(model):
        return None
    names = ("audio_config", "encoder_config")
    encoder = next((c for name in names if (c := getattr(model.config, name, None))), model.config)
    width = next((w for name in WIDTHS if (w := getattr(encoder, name, None))), MELS)
    width *= STACKED.get(model.config.model_type, 1)
    frames = _frames(model)
    return (
        torch.randn(k, width, frames)
        if model.config.model_type in MELS_FIRST
        else torch.randn(k, frames, width)
    )


def _frames(model: nn.Module) -> int:
    return FIXED_FRAMES.get(model.config.model_type, FRAMES)


def _heard(model: nn.Module, task: str, k: int) -> Input:
    # The mask of granite_speech is for the positions in the text.
    silent = task in SILENT or model.config.model_type.startswith("granite_speech")
    return None if silent else torch.ones(k, _frames(model), dtype=torch.long)


def _past(model: nn.Module, task: str, k: int) -> Input:
    several = model.config.model_type.startswith("patchts")
    return (
        torch.randn(k, PAST, model.config.num_input_channels) if several else torch.randn(k, PAST)
    )


def _future(model: nn.Module, task: str, k: int) -> Input:
    several = model.config.model_type.startswith("patchts")
    length = getattr(model.config, "horizon_length", FUTURE)
    return (
        torch.randn(k, FUTURE, model.config.num_input_channels)
        if several
        else torch.randn(k, length)
    )


def _labels(model: nn.Module, task: str, k: int) -> Input:
    classes = getattr(model.config, "num_labels", 3)
    if task == "object detection":
        boxes = torch.rand(k, 2, 4) * 0.4 + 0.3
        return [
            {"class_labels": torch.tensor([n % classes, 1]), "boxes": boxes[n]} for n in range(k)
        ]
    if task == "semantic segmentation":
        return torch.randint(0, classes, (k, IMAGE, IMAGE))
    if task == "depth estimation":
        return torch.rand(k, IMAGE, IMAGE)
    if task == "multiple choice":
        return torch.arange(k) % 2
    if model.config.model_type in CODES:
        return torch.randint(5, 30, (k, TEXT, model.config.num_codebooks)).masked_fill(
            _after_end(k)[..., None], -100
        )
    if model.config.model_type == "dia":
        return torch.randint(5, 30, (k, model.config.decoder_config.num_channels))
    if task == "visual question answering":
        return (
            torch.rand(k, classes)
            if model.config.model_type == "vilt"
            else torch.randint(5, 30, (k, TEXT))
        )
    if task == "CTC":
        labels = torch.randint(5, 30, (k, 3))
        return labels.masked_fill(
            torch.arange(3) >= torch.tensor((3, 2, 3, 1, 2, 3)[:k])[:, None], -100
        )
    if task == "token classification":
        return torch.randint(0, classes, (k, TEXT)).masked_fill(_after_end(k), -100)
    if task.endswith("classification") or task == "question answering":
        return torch.arange(k) % classes
    return torch.randint(5, 30, (k, TEXT)).masked_fill(_after_end(k), -100)


def _only(
    condition: Callable[[nn.Module, str], bool], make: Callable[[nn.Module, int], Input]
) -> Callable[[nn.Module, str, int], Input]:
    """A function that makes an input if a condition holds, and None otherwise."""
    return lambda model, task, k: make(model, k) if condition(model, task) else None


INPUTS = {
    "input_ids": _text,
    "attention_mask": _mask,
    "qformer_input_ids": _text,
    "qformer_attention_mask": _mask,
    "bbox": _boxes,
    "global_attention_mask": _seen_by_all,
    "visual_feats": lambda model, task, k: torch.randn(k, 4, model.config.visual_feat_dim),
    "visual_pos": lambda model, task, k: torch.rand(k, 4, model.config.visual_pos_dim),
    "pixel_values": _image,
    "high_res_pixel_values": lambda model, task, k: torch.randn(k, 3, IMAGE, IMAGE),
    "pixel_values_videos": _video,
    "image_grid_thw": _grid,
    "image_merge_sizes": lambda model, task, k: torch.ones(k, dtype=torch.long),
    "image_sizes": _only(
        lambda m, task: m.config.model_type in SIZED, lambda m, k: torch.full((k, 2), IMAGE)
    ),
    "spatial_shapes": lambda model, task, k: torch.full((k, 2), 4),
    "pixel_attention_mask": _only(
        lambda model, task: "spatial_shapes" in takes(model),
        lambda model, k: torch.ones(k, 16, dtype=torch.long),
    ),
    "aspect_ratio_ids": lambda model, task, k: torch.arange(k)[:, None] % 8 + 1,
    "aspect_ratio_mask": lambda model, task, k: torch.ones(k, 1, 4, dtype=torch.long),
    "cross_attention_mask": _only(
        lambda model, task: "aspect_ratio_ids" in takes(model),
        lambda model, k: torch.ones(k, TEXT, 1, 4, dtype=torch.long),
    ),
    "image_attention_mask": lambda model, task, k: torch.ones(k, TEXT, 1, dtype=torch.long),
    "image_embeds_position_mask": lambda m, task, k: (
        torch.arange(TEXT) < m.config.latent_query_num
    ).repeat(k, 1),
    "flattened_patches": _flattened,
    "bool_masked_pos": _masked,
    "input_values": _waves,
    "input_features": _features,
    "input_features_mask": _heard,
    "feature_attention_mask": _heard,
    "past_values": _past,
    "past_time_features": _only(
        lambda m, task: task == "time series", lambda m, k: torch.randn(k, PAST, 1)
    ),
    "past_observed_mask": _only(
        lambda m, task: not m.config.model_type.startswith("patchts"),
        lambda m, k: torch.ones(k, PAST),
    ),
    "future_values": _future,
    "future_time_features": lambda model, task, k: torch.randn(k, FUTURE, 1),
    "labels": _labels,
    # No noise in the posterior.
    "sample": lambda model, task, k: False,
    "start_positions": lambda model, task, k: torch.arange(k) % 4,
    "end_positions": lambda model, task, k: torch.arange(k) % 4 + 1,
    "return_loss": _only(
        lambda model, task: task == "image and text contrast", lambda model, k: True
    ),
}
