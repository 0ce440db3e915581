"""Whisper's decoder prompt: labels must begin as `generate` begins.

Otherwise evaluation measures another model than the one trained, for example if labels begin with
<|de|><|transcribe|> while `generate` detects <|en|>.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperConfig,
)
from transformers.utils import logging

from ...metrics.normalizers import language_code
from ...models import base_model
from ..batches.training_data import length_or_none
from ..protocol import EvaluationView, Samples

logger = logging.get_logger(__name__)

NO_TIMESTAMPS = "<|notimestamps|>"
DETECTED = "<the language it detects>"


def generation_prompt(
    config: WhisperConfig, generation_config: GenerationConfig
) -> list[int | None]:
    """The tokens that `generate` begins with; None stands for a language that it detects in the
    audio."""

    def setting(name: str) -> Any:
        # generation configurations only have the attributes that their file sets
        return getattr(generation_config, name, None)

    language, task = setting("language"), setting("task")
    languages, tasks = setting("lang_to_id"), setting("task_to_id")
    no_timestamps, start = setting("no_timestamps_token_id"), setting("decoder_start_token_id")
    prompt = [config.decoder_start_token_id if start is None else start]
    if language is None and task is None:
        forced = setting("forced_decoder_ids") or getattr(config, "forced_decoder_ids", None) or []
        prompt += [token for _, token in forced] if forced and forced[0][0] == 1 else []
    if language is not None or (languages and prompt[1:2] in ([], [None])):
        is_set = isinstance(language, str)
        prompt[1:2] = [languages[f"<|{language_code(language)}|>"] if is_set else None]
    has_task = tasks and set(prompt) & set(tasks.values())
    if task is not None or (language is not None and tasks and not has_task):
        prompt.append(tasks[task or "transcribe"])
    if setting("return_timestamps"):
        return prompt[:-1] if prompt[-1] == no_timestamps else prompt
    return prompt if no_timestamps in (None, prompt[-1]) else [*prompt, no_timestamps]


def label_prompt(
    labels: Sequence[int],
    config: WhisperConfig,
    generation_config: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase | None,
) -> list[int]:
    """The prompt that the decoder reads in training.

    Args:
        labels: as the model gets them, without the start token.
    """
    special = {
        config.decoder_start_token_id,
        getattr(generation_config, "no_timestamps_token_id", None),
    }
    for tokens in ("lang_to_id", "task_to_id"):
        special |= set((getattr(generation_config, tokens, None) or {}).values())
    prompt = [config.decoder_start_token_id]
    for label in labels:
        token = _token_text(int(label), tokenizer) or ""
        if label == config.eos_token_id or not (
            label in special or re.fullmatch(r"<\|[a-z]+\|>", token)
        ):
            return prompt
        prompt.append(int(label))
    return prompt


def prompt_difference(
    labels: Sequence[int],
    config: WhisperConfig,
    generation_config: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> str | None:
    """How the beginnings of the labels and of `generate` differ, in words; None if they agree."""
    wanted = label_prompt(labels, config, generation_config, tokenizer)
    generated = generation_prompt(config, generation_config)
    if wanted == generated:
        return None
    old = getattr(generation_config, "no_timestamps_token_id", None) is None
    if old and wanted[:-1] == generated and _token_text(wanted[-1], tokenizer) == NO_TIMESTAMPS:
        # the model generates this token by itself, as it has learned to
        return None

    def shown(prompt: list[int | None]) -> str:
        return "".join(
            DETECTED if token is None else _token_text(token, tokenizer) for token in prompt
        )

    return f"the labels begin with {shown(wanted)}, but generate() begins with {shown(generated)}"


def _token_text(token: int, tokenizer: PreTrainedTokenizerBase | None) -> str:
    # users may give a feature extractor as processing_class, or nothing
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return str(tokenizer.convert_ids_to_tokens(token))
    return f"[{token}]"


def check_prompt(
    tokenizer: PreTrainedTokenizerBase,
    config: WhisperConfig,
    generation_config: GenerationConfig,
    name: str,
) -> None:
    """Raises ValueError, with both prompts, if the labels of a tokenizer do not begin as `generate`
    of the model `name` does."""
    labels = tokenizer("a").input_ids
    if labels[0] == config.decoder_start_token_id:
        labels = labels[1:]
    if difference := prompt_difference(labels, config, generation_config, tokenizer):
        settings = {key: getattr(generation_config, key, None) for key in ("language", "task")}
        text = ", ".join(f"{key}: {value}" for key, value in settings.items() if value)
        raise ValueError(
            f"{difference} for {name}: set language and task to the same for both "
            f"({text or 'such as language: en, task: transcribe'})"
        )


def warn_of_difference(trainer: EvaluationView) -> None:
    """Warns if a Whisper model is evaluated by `generate` on labels that begin in another way."""
    model, data = trainer.accelerator.unwrap_model(trainer.model), trainer.eval_dataset
    model = base_model(model)
    if isinstance(data, dict):
        data = next(iter(data.values()), None)
    whisper = isinstance(model, PreTrainedModel) and model.config.model_type == "whisper"
    if not whisper or not trainer.args.predict_with_generate or not _has_rows(data):
        return
    rows, collator = trainer.collated(data, "evaluation")
    with torch.random.fork_rng(devices=[]):
        labels = collator([rows[0]]).get("labels")
    if labels is None:
        return
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    difference = prompt_difference(
        labels[0].tolist(), model.config, model.generation_config, tokenizer
    )
    if difference:
        logger.warning(
            f"In the evaluation {difference}, so its texts are not those of the model being "
            "trained. Set model.generation_config.language and .task to those of the labels (not "
            "with its `update`, which ignores both), and let the collator remove the start token "
            "from the labels."
        )


def _has_rows(data: Samples | None) -> bool:
    return bool(length_or_none(data))
