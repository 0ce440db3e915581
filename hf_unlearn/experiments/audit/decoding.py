"""Doors for speech recognition: other ways to decode. A model may fail only in the decoding that
the run evaluated."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from datasets import Dataset
from transformers import GenerationConfig

from .door import RECOGNISERS, Door, DoorUnavailable, SpeechSubject
from .gaps import Finding

# Subtracted from the logits of CTC's blank.
BLANK_PENALTIES = (2.0, 5.0, 10.0)


def beams(subject: SpeechSubject) -> Finding:
    count = subject.settings.num_beams
    return subject.examiner.recognition(subject.model, num_beams=count)


def as_the_original_decodes(subject: SpeechSubject) -> Finding:
    """With the original's generation configuration: words may be forbidden by settings alone."""
    theirs = subject.original.model.generation_config
    if _settings_of(subject.model.generation_config) == _settings_of(theirs):
        if subject.name == "unlearned":
            raise DoorUnavailable("it has the same generation settings as the original")
        return subject.examiner.recognition(subject.model)
    model = subject.copy()
    model.generation_config = copy.deepcopy(theirs)
    return subject.examiner.recognition(model)


def _settings_of(config: GenerationConfig) -> dict:
    """The generation settings that can change a transcript. A file may name a default or leave it
    out: both mean the same, so defaults are left out here."""
    about_the_file = ("transformers_version", "_from_model_config")
    # What `generate` takes for a setting that is None. transformers has no public name for it.
    defaults = GenerationConfig._get_default_generation_params()
    return {
        name: value
        for name, value in config.to_dict().items()
        if name not in about_the_file and value is not None and value != defaults.get(name)
    }


def timestamps(subject: SpeechSubject) -> Finding:
    """Transcripts with time stamps, which start from another prompt than those without."""
    last = getattr(subject.model.generation_config, "no_timestamps_token_id", None)
    if last is None or last + 1 >= subject.model.config.vocab_size:
        raise DoorUnavailable("the model has no tokens for time stamps")
    return subject.examiner.recognition(subject.model, return_timestamps=True)


def languages(subject: SpeechSubject) -> list[str]:
    """The codes of the languages that the model has tokens for.

    Raises:
        DoorUnavailable: it knows one language only.
    """
    tokens = getattr(subject.model.generation_config, "lang_to_id", None) or {}
    if len(tokens) < 2:
        raise DoorUnavailable("the model has no tokens for several languages")
    return sorted(token.strip("<|>") for token in tokens)


def no_language(subject: SpeechSubject) -> Finding:
    """The model detects the language by itself."""
    languages(subject)
    return subject.examiner.recognition(subject.model, language=None)


def wrong_language(subject: SpeechSubject) -> Finding:
    codes, language = languages(subject), subject.recipe.data.language
    wrong = next(code for code in ("de", "en", *codes) if code in codes and code != language)
    finding = subject.examiner.recognition(subject.model, language=wrong)
    finding.more["language"] = wrong
    return finding


def translate(subject: SpeechSubject) -> Finding:
    """Translation to English: of English speech this is another way to transcribe it."""
    config = subject.model.generation_config
    languages(subject)
    if "translate" not in (getattr(config, "task_to_id", None) or {}):
        raise DoorUnavailable("the model has no token for translation")
    if subject.recipe.data.language not in (None, "en"):
        raise DoorUnavailable("only a translation of English can be compared with its transcript")
    return subject.examiner.recognition(subject.model, task="translate")


def own_words(subject: SpeechSubject) -> Finding:
    """The decoder first reads what the forgotten speakers said in other utterances."""
    others, asked = others_and_asked(subject)
    prompt = prompt_of(subject, others, asked).to(subject.model.device)
    finding = subject.examiner.recognition(subject.model, asked, prompt_ids=prompt)
    finding.more.update(prompt_tokens=len(prompt), measured_on=len(asked))
    return finding


def others_and_asked(subject: SpeechSubject) -> tuple[Dataset, Dataset]:
    """The forgotten speakers' utterances whose words become the prompt, and those that are asked
    for, none of which is in the prompt: `forget` and `forget_test`, or two halves of `forget`.

    Raises:
        DoorUnavailable: there is only one forgotten utterance.
    """
    splits, judged = subject.examiner.splits, subject.examiner.judged_split
    other = "forget" if judged == "forget_test" else "forget_test"
    if other in splits:
        return splits[other], splits[judged]
    rows = splits[judged]
    if len(rows) < 2:
        raise DoorUnavailable("there is only one forgotten sample")
    return rows.select(range(0, len(rows), 2)), rows.select(range(1, len(rows), 2))


def prompt_of(subject: SpeechSubject, others: Dataset, asked: Dataset) -> torch.Tensor:
    """The tokens (T,) of the first words of `others` that leave room for the texts of `asked`.

    Raises:
        DoorUnavailable: the tokenizer has no token for prompts, or the decoder is too short for
            one.
    """
    tokenizer = subject.recipe.processor.tokenizer
    if "<|startofprev|>" not in tokenizer.get_vocab():
        raise DoorUnavailable("the tokenizer has no token <|startofprev|>")
    longest = max(map(len, asked["labels"][:]))
    positions = subject.model.config.max_target_positions
    # `generate` keeps half of the positions for earlier words, the start tokens included.
    room = min(positions // 2 - 5, positions - longest - 1)
    words = " ".join(others["text"][:]).split()[: max(room, 0)]
    while words:
        ids = tokenizer.get_prompt_ids(" ".join(words), return_tensors="pt")
        if len(ids) <= room:
            return ids
        words.pop()
    raise DoorUnavailable(f"the decoder's {positions} positions leave no room for a prompt")


def with_decoder(measure: Callable[[SpeechSubject], Finding], subject: SpeechSubject) -> Finding:
    """A measurement of models that generate their texts.

    Raises:
        DoorUnavailable: the model does not generate.
    """
    if not subject.recipe.generates:
        raise DoorUnavailable("a CTC model has no decoder to prompt")
    return measure(subject)


def blank_penalty(subject: SpeechSubject) -> Finding:
    """Lowers the logit of CTC's blank by whichever amount gives the fewest errors: a model that
    outputs blanks may still know the words."""
    if subject.recipe.generates:
        raise DoorUnavailable("only a CTC model has blanks")
    findings = {
        penalty: subject.examiner.recognition(subject.model, blank_penalty=penalty)
        for penalty in BLANK_PENALTIES
    }
    best = min(findings, key=lambda penalty: findings[penalty].value)
    findings[best].more["penalty"] = best
    return findings[best]


NO_TEXT = "a classifier writes no text"
DECODING = tuple(
    Door(
        name,
        "decoding",
        meaning,
        measure,
        tasks=RECOGNISERS,
        unavailable_reason=NO_TEXT,
        settings=("judged_split", *(("num_beams",) if name == "beams" else ())),
    )
    for name, meaning, measure in (
        ("beams", "beam search instead of greedy decoding", partial(with_decoder, beams)),
        (
            "as_the_original_decodes",
            "with the original's generation settings, such as the tokens that are suppressed",
            partial(with_decoder, as_the_original_decodes),
        ),
        ("timestamps", "transcripts with time stamps", partial(with_decoder, timestamps)),
        (
            "no_language",
            "without a language token: the model detects the language",
            partial(with_decoder, no_language),
        ),
        (
            "wrong_language",
            "with the token of another language",
            partial(with_decoder, wrong_language),
        ),
        ("translate", "the token for translation to English", partial(with_decoder, translate)),
        (
            "own_words",
            "other utterances of the forgotten speakers as the prompt (if the original makes more "
            "errors, too, the prompt itself disturbs)",
            partial(with_decoder, own_words),
        ),
        (
            "blank_penalty",
            f"CTC's blank made less likely: its logits lowered by {BLANK_PENALTIES[0]:g}, "
            f"{BLANK_PENALTIES[1]:g} or {BLANK_PENALTIES[2]:g}, whichever gives each model the "
            "fewest errors",
            blank_penalty,
        ),
    )
)
