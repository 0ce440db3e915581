"""Sets the language and the task that Whisper's `generate` prompts with."""

from transformers import GenerationConfig, PreTrainedTokenizerBase, WhisperConfig
from transformers.models.whisper.tokenization_whisper import TASK_IDS, TO_LANGUAGE_CODE

from ...metrics.normalizers import language_code

# The number of tokens that tells Whisper's English-only models from the multilingual ones.
ENGLISH_VOCABULARY = 51864


def load_generation_config(name: str, config: WhisperConfig) -> GenerationConfig:
    """The generation configuration that the model `name` will have once it is loaded."""
    try:
        settings = GenerationConfig.from_pretrained(name)
    except OSError:
        return GenerationConfig.from_model_config(config)
    return GenerationConfig.from_model_config(config) if settings._from_model_config else settings


def check_language(
    tokenizer: PreTrainedTokenizerBase, language: str | None, task: str | None
) -> None:
    """Raises ValueError if a tokenizer has no prompt token for the language or the task."""
    if language is not None and language_code(language) not in TO_LANGUAGE_CODE.values():
        raise ValueError(
            f"language is {language!r}, which Whisper does not know: give a code such "
            "as en, de or zh"
        )
    if task is not None and task not in TASK_IDS:
        raise ValueError(f"task is {task!r}, but must be one of {', '.join(TASK_IDS)}")
    tokens = [f"<|{name}|>" for name in (language_code(language), task) if name is not None]
    missing = [token for token in tokens if token not in tokenizer.get_vocab()]
    if missing:
        raise ValueError(
            f"the tokenizer has no token {', '.join(missing)}: leave language and task out (on a "
            'command line, --language "" --task "" unsets those of the YAML)'
        )


def set_language(
    config: WhisperConfig,
    generation_config: GenerationConfig,
    name: str,
    language: str | None,
    task: str | None,
) -> None:
    """Makes `generate` prompt with a language and a task, in this process and after saving. Does
    nothing if both are None.

    Args:
        name: of the model, for messages.

    Raises:
        ValueError: the model is English-only, or its generation configuration lacks such tokens.
    """
    if language is None and task is None:
        return
    # generation configurations only have the attributes that their file sets
    english = getattr(generation_config, "is_multilingual", None) is False
    if english or config.vocab_size == ENGLISH_VOCABULARY:
        raise ValueError(
            f"language is {language} and task is {task}, but {name} takes neither: it knows one "
            'language only. Leave both out (on a command line, --language "" --task "" unsets '
            "those of the YAML)"
        )
    languages = getattr(generation_config, "lang_to_id", None)
    if not languages or not getattr(generation_config, "task_to_id", None):
        raise ValueError(
            f"language is {language}, but the generation_config.json of {name} has an old form "
            "without lang_to_id and task_to_id, so generate() knows none. Leave language and "
            'task out (on a command line, --language "" --task ""), or take a newer one: '
            "GenerationConfig.from_pretrained('openai/whisper-tiny').save_pretrained(<folder of "
            "the model>)"
        )
    code = language_code(language)
    if code is not None and f"<|{code}|>" not in languages:
        codes = ", ".join(token.strip("<|>") for token in languages)
        raise ValueError(f"language is {language}, which {name} does not know; it knows {codes}")
    # `update` would ignore attributes that a GenerationConfig does not have by default.
    generation_config.language, generation_config.task = code, task  # type: ignore[attr-defined]
    # Otherwise this configuration would be discarded when it is loaded.
    generation_config._from_model_config = False
