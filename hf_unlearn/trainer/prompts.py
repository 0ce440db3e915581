"""How Whisper's decoder is prompted: what its labels begin with has to be what `generate` begins
with.

A model that is trained on <|de|><|transcribe|> and evaluated on a detected <|en|> is another model
in its evaluation.
"""

import re
from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, WhisperConfig
from transformers.models.whisper.tokenization_whisper import TASK_IDS, TO_LANGUAGE_CODE
from transformers.utils import logging

from ..metrics.normalizers import language_code

logger = logging.get_logger(__name__)

SILENT, DETECTED = "<|notimestamps|>", "<the language it detects>"
ENGLISH_VOCABULARY = 51864  # Whisper's English-only models have so many tokens


def load_generation_config(name: str, config: WhisperConfig) -> GenerationConfig:
    """The generation configuration that the model `name` will have once it is loaded."""
    try:
        found = GenerationConfig.from_pretrained(name)
    except OSError:
        return GenerationConfig.from_model_config(config)
    return GenerationConfig.from_model_config(config) if found._from_model_config else found


def check_language(tokenizer, language: str | None, task: str | None) -> None:
    """Raises ValueError where a tokenizer has no prompt token for the language or the task."""
    if language is not None and language_code(language) not in TO_LANGUAGE_CODE.values():
        raise ValueError(
            f"language is {language!r}, which Whisper does not know: give a code such "
            "as en, de or zh"
        )
    if task is not None and task not in TASK_IDS:
        raise ValueError(f"task is {task!r}, but must be one of {', '.join(TASK_IDS)}")
    wanted = [f"<|{name}|>" for name in (language_code(language), task) if name is not None]
    missing = [token for token in wanted if token not in tokenizer.get_vocab()]
    if missing:
        raise ValueError(
            f"the tokenizer has no token {', '.join(missing)}: leave language and task out"
        )


def set_language(
    config: WhisperConfig,
    generation_config: GenerationConfig,
    name: str,
    language: str | None,
    task: str | None,
) -> None:
    """Makes `generate` prompt with language and task, in this process and after saving; nothing
    where both are None.

    Raises:
        ValueError: the model `name` is an English-only one, or its generation configuration has no
            such tokens.
    """
    if language is None and task is None:
        return
    if (
        config.vocab_size == ENGLISH_VOCABULARY
        or getattr(generation_config, "is_multilingual", None) is False
    ):
        raise ValueError(
            f"language is {language} and task is {task}, but {name} takes neither: it knows one "
            "language only. Leave both out"
        )
    if not getattr(generation_config, "lang_to_id", None) or not getattr(
        generation_config, "task_to_id", None
    ):
        raise ValueError(
            f"language is {language}, but the generation_config.json of {name} is of an old form "
            "without lang_to_id and "
            "task_to_id, so that generate() cannot be told. Leave language and task out, or take a "
            "newer one: "
            "GenerationConfig.from_pretrained('openai/whisper-tiny').save_pretrained(<folder of "
            "the model>)"
        )
    code = language_code(language)
    if code is not None and f"<|{code}|>" not in generation_config.lang_to_id:
        known = ", ".join(token.strip("<|>") for token in generation_config.lang_to_id)
        raise ValueError(f"language is {language}, which {name} does not know; it knows {known}")
    # Not by `update`, which leaves out what a GenerationConfig does not have by default.
    generation_config.language, generation_config.task = code, task
    generation_config._from_model_config = False  # else it is thrown away when it is loaded


def generation_prompt(
    config: WhisperConfig, generation_config: GenerationConfig
) -> list[int | None]:
    """The tokens that `generate` begins with; None is a language that it detects in the audio."""
    language, task, languages, tasks, silent, start, forced = (
        getattr(generation_config, name, None)
        for name in ("language", "task", "lang_to_id", "task_to_id", "no_timestamps_token_id", "decoder_start_token_id",
                     "forced_decoder_ids")
    )  # fmt: skip
    prompt = [config.decoder_start_token_id if start is None else start]
    if language is None and task is None:
        forced = forced or getattr(config, "forced_decoder_ids", None) or []
        prompt += [token for place, token in forced] if forced and forced[0][0] == 1 else []
    if language is not None or (languages and prompt[1:2] in ([], [None])):
        one = isinstance(language, str)
        prompt[1:2] = [languages[f"<|{language_code(language)}|>"] if one else None]
    if task is not None or (
        language is not None and tasks and not set(prompt) & set(tasks.values())
    ):
        prompt.append(tasks[task or "transcribe"])
    if getattr(generation_config, "return_timestamps", None):
        return prompt[:-1] if prompt[-1] == silent else prompt
    return prompt if silent in (None, prompt[-1]) else [*prompt, silent]


def label_prompt(
    labels: Sequence[int], config: WhisperConfig, generation_config: GenerationConfig, tokenizer
) -> list[int]:
    """The prompt that the decoder reads while it learns labels as a model is given them: without
    the start token."""
    special = {
        config.decoder_start_token_id,
        getattr(generation_config, "no_timestamps_token_id", None),
    }
    for tokens in ("lang_to_id", "task_to_id"):
        special |= set((getattr(generation_config, tokens, None) or {}).values())
    prompt = [config.decoder_start_token_id]
    for label in labels:
        token = _name(int(label), tokenizer) or ""
        if label == config.eos_token_id or not (
            label in special or re.fullmatch(r"<\|[a-z]+\|>", token)
        ):
            return prompt
        prompt.append(int(label))
    return prompt


def difference(
    labels: Sequence[int],
    config: WhisperConfig,
    generation_config: GenerationConfig,
    tokenizer=None,
) -> str | None:
    """What the labels and `generate` begin with, in words, where it is not the same; else None."""
    wanted = label_prompt(labels, config, generation_config, tokenizer)
    given = generation_prompt(config, generation_config)
    if wanted == given:
        return None
    old = getattr(generation_config, "no_timestamps_token_id", None) is None
    if old and wanted[:-1] == given and _name(wanted[-1], tokenizer) == SILENT:
        return None  # the model says that token by itself, as it has learned to

    def shown(prompt):
        return "".join(DETECTED if token is None else _name(token, tokenizer) for token in prompt)

    return f"the labels begin with {shown(wanted)}, but generate() begins with {shown(given)}"


def _name(token: int, tokenizer) -> str:
    return (
        tokenizer.convert_ids_to_tokens(token)
        if hasattr(tokenizer, "convert_ids_to_tokens")
        else f"[{token}]"
    )


def check_prompt(
    tokenizer, config: WhisperConfig, generation_config: GenerationConfig, name: str
) -> None:
    """Raises ValueError, with both, where the labels of a tokenizer do not begin as `generate` of
    the model `name` does."""
    labels = tokenizer("a").input_ids
    if labels[0] == config.decoder_start_token_id:
        labels = labels[1:]
    if found := difference(labels, config, generation_config, tokenizer):
        own = {key: getattr(generation_config, key, None) for key in ("language", "task")}
        known = ", ".join(f"{key}: {value}" for key, value in own.items() if value)
        raise ValueError(
            f"{found} for {name}: set language and task to the same for both "
            f"({known or 'such as language: en, task: transcribe'})"
        )


def warn_of_difference(trainer) -> None:
    """Warns where a Whisper is evaluated by `generate` on labels that begin in another way."""
    model, data = trainer.accelerator.unwrap_model(trainer.model), trainer.eval_dataset
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    if isinstance(data, dict):
        data = next(iter(data.values()), None)
    whisper = isinstance(model, PreTrainedModel) and model.config.model_type == "whisper"
    listed = (
        hasattr(data, "__len__")
        and not isinstance(data, torch.utils.data.IterableDataset)
        and len(data)
    )
    if not (whisper and trainer.args.predict_with_generate and listed):
        return
    rows, collator = trainer.collated(data, "evaluation")
    with torch.random.fork_rng(devices=[]):
        labels = collator([rows[0]]).get("labels")
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    found = (
        None
        if labels is None
        else difference(labels[0].tolist(), model.config, model.generation_config, tokenizer)
    )
    if found:
        logger.warning(
            f"In the evaluation {found}: its texts are not of the model that is trained. Set "
            "model.generation_config.language "
            "and .task to those of the labels (not by its `update`, which passes over both), and "
            "let the collator take the "
            "start token off the labels."
        )
