"""Doors: CTranslate2, the runtime of faster-whisper, with the weights in another type. For Whisper
only; needs the package ctranslate2 (the extra `audit`)."""

import contextlib
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ...trainer import generation_prompt
from ..recipe import Recipe
from .decoding import NO_TEXT
from .door import RECOGNISERS, Door, DoorUnavailable, SpeechSubject
from .examiner import SpeechExaminer
from .gaps import Finding, rate


def in_ctranslate2(quantization: str, subject: SpeechSubject) -> Finding:
    """The transcripts of the converted model, decoded greedily."""
    if subject.model.config.model_type != "whisper":
        raise DoorUnavailable("only Whisper models are converted for CTranslate2 here")
    if find_spec("ctranslate2") is None:
        raise DoorUnavailable("ctranslate2 is not installed: pip install ctranslate2")
    examiner = subject.examiner
    rows = examiner.splits[examiner.judged_split]
    with tempfile.TemporaryDirectory() as folder:
        subject.model.save_pretrained(folder)
        subject.recipe.processor.save_pretrained(folder)
        with converted(folder, quantization) as model:
            outputs = transcripts(model, subject.model, subject.recipe, examiner)
    counts = examiner.errors(outputs, examiner.texts(rows))
    return rate(*counts, examiner.unit, examiner.direction)


@contextlib.contextmanager
def converted(folder: str | Path, quantization: str) -> Iterator[Any]:
    """The `ctranslate2.models.Whisper` of an output folder, as the public converter makes it.

    Args:
        quantization: type of the weights: "float32", "float16" or "int8". On CPUs float16 weights
            are used in float32, because CTranslate2 cannot compute in float16 there.
    """
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as target:
        converter = TransformersConverter(str(folder))
        converter.convert(target, quantization=quantization, force=True)
        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        computed = "float32" if (quantization, device) == ("float16", "cpu") else quantization
        yield ctranslate2.models.Whisper(target, device=device, compute_type=computed)


def transcripts(
    model: Any, original: PreTrainedModel, recipe: Recipe, examiner: SpeechExaminer
) -> list[str]:
    """What a converted model says of the utterances that the examiner asks about.

    Args:
        model: a `ctranslate2.models.Whisper`.
        original: the model before the conversion, for its prompt.
    """
    import ctranslate2

    prompt = generation_prompt(original.config, original.generation_config)
    # CTranslate2 uses at most half of max_length for the transcript.
    room = 2 * (original.config.max_target_positions - len(prompt))
    texts, tokenizer = [], recipe.processor.tokenizer
    for batch in examiner.batches(original, examiner.splits[examiner.judged_split]):
        features = batch["input_features"].to("cpu", torch.float32).numpy()
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(features))
        prompts = prompts_of(model, view, prompt, tokenizer.convert_tokens_to_ids)
        generated = model.generate(view, prompts, beam_size=1, max_length=room)
        texts += [
            tokenizer.decode(one.sequences_ids[0], skip_special_tokens=True) for one in generated
        ]
    return texts


def prompts_of(
    model: Any, features: Any, prompt: list[int | None], token_id: Any
) -> list[list[int]]:
    """The prompt of each utterance, with the detected language where the prompt names none."""
    if None not in prompt:
        return [prompt] * features.shape[0]
    detected = [token_id(languages[0][0]) for languages in model.detect_language(features)]
    return [[language if one is None else one for one in prompt] for language in detected]


CTRANSLATE2 = tuple(
    Door(
        f"ctranslate2_{quantization}",
        "form",
        f"converted for CTranslate2 (faster-whisper), with {quantization} weights",
        partial(in_ctranslate2, quantization),
        tasks=RECOGNISERS,
        unavailable_reason=NO_TEXT,
        settings=("judged_split",),
    )
    for quantization in ("float16", "int8")
)
