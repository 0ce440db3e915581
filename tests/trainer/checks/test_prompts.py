"""Whisper's labels begin as `generate` begins, or the user is told."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
    pipeline,
)

from hf_unlearn.data import SpeechCollator
from hf_unlearn.experiments.speech.tiny_whisper import build_model
from hf_unlearn.experiments.speech.whisper_language import (
    check_language,
    load_generation_config,
    set_language,
)
from hf_unlearn.trainer.checks.whisper_prompt import check_prompt, generation_prompt
from tests.support.tiny import make_trainer

# The languages are in Whisper's order.
TOKENS = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|zh|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startofprev|>",
    "<|notimestamps|>",
]
EOT, SOT, EN, ZH, DE, TRANSLATE, TRANSCRIBE, PREVIOUS, SILENT = range(4, 13)


@pytest.fixture
def processor():
    vocabulary = {token: number for number, token in enumerate([*"abcd", *TOKENS])}
    tokenizer = WhisperTokenizer(vocabulary, [], additional_special_tokens=TOKENS)
    tokenizer.pad_token = tokenizer.eos_token
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=8, chunk_length=1), tokenizer)


@pytest.fixture
def build(processor):
    sizes = {"d_model": 8, "layers": 1, "heads": 2, "max_target_positions": 12}
    return lambda language="de", task="transcribe": build_model(
        processor, **sizes, language=language, task=task
    )


def read_first(model, **options) -> list[int]:
    """What the decoder reads first when `generate` is called, after it has detected a language."""
    read = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, inputs: read.append(inputs["input_ids"][0].tolist()), with_kwargs=True
    )
    model.generate(torch.zeros(1, 8, 100), **options)
    hook.remove()
    detected = len(read) > 1 and read[0] == [SOT] and read[1][:1] == [SOT]
    return read[1] if detected else read[0]


SETTINGS = [
    {"language": "de", "task": "transcribe"},
    {"language": "German"},
    {"language": "en", "task": "translate"},
    {"task": "transcribe"},
    {},
    {"language": "de", "task": "transcribe", "return_timestamps": True},
    {"forced_decoder_ids": [[1, None], [2, TRANSCRIBE]]},
    {"forced_decoder_ids": [[1, DE], [2, TRANSLATE], [3, SILENT]]},
    {"lang_to_id": None, "task_to_id": None},
    {"lang_to_id": None, "task_to_id": None, "forced_decoder_ids": [[1, SILENT]]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_prompt_is_the_one_that_generate_uses(build, settings):
    model = build()
    for name in ("language", "task"):
        setattr(model.generation_config, name, None)
    for name, value in settings.items():
        if name in ("lang_to_id", "task_to_id"):
            delattr(model.generation_config, name)
        else:
            setattr(model.generation_config, name, value)
    expected = generation_prompt(model.config, model.generation_config)
    read = read_first(model)
    assert [
        None if token is None else token_read
        for token, token_read in zip(expected, read, strict=True)
    ] == expected
    assert all(
        token_read in (EN, ZH, DE) for token, token_read in zip(expected, read) if token is None
    )


def test_language_and_task_reach_generate_also_after_saving(build, processor, tmp_path):
    model = build(language=None, task=None)
    languages = {
        "is_multilingual": True,
        "lang_to_id": {"<|en|>": EN, "<|de|>": DE},
        "task_to_id": {"transcribe": TRANSCRIBE, "translate": TRANSLATE},
    }
    for name, value in languages.items():
        setattr(model.generation_config, name, value)
    # as in a model without a generation configuration
    model.generation_config._from_model_config = True
    set_language(model.config, model.generation_config, "this", "german", "transcribe")
    processor.tokenizer.set_prefix_tokens(language="german", task="transcribe")
    check_prompt(processor.tokenizer, model.config, model.generation_config, "this")
    wanted = processor.tokenizer("a").input_ids[:4]
    assert wanted == [SOT, DE, TRANSCRIBE, SILENT] and read_first(model) == wanted
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["language"] == "de"
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    assert read_first(loaded) == wanted
    read = []
    loaded.get_decoder().register_forward_pre_hook(
        lambda module, args, inputs: read.append(inputs["input_ids"][0].tolist()), with_kwargs=True
    )
    recogniser = pipeline(
        "automatic-speech-recognition",
        model=loaded,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    recogniser({"raw": np.zeros(16_000, "float32"), "sampling_rate": 16_000})
    assert read[0] == wanted


def test_a_language_that_a_model_cannot_take_is_refused_with_the_remedy(build, processor):
    english, old, model = build(language=None, task=None), build(), build()
    del old.generation_config.lang_to_id
    for recogniser, message in [
        (
            english,
            "language is en and task is transcribe, but X takes neither: .* Leave both out "
            r"\(on a command line, --language \"\" --task \"\" unsets",
        ),
        (old, "old form without lang_to_id .*take a newer one: GenerationConfig.from_pretrained"),
    ]:
        with pytest.raises(ValueError, match=message):
            set_language(recogniser.config, recogniser.generation_config, "X", "en", "transcribe")
    with pytest.raises(
        ValueError, match="language is fr, which X does not know; it knows en, zh, de"
    ):
        set_language(model.config, model.generation_config, "X", "fr", None)
    # the published English-only models, whose older configurations do not say so
    model.config.vocab_size = 51864
    with pytest.raises(ValueError, match="Leave both out"):
        set_language(model.config, GenerationConfig(), "X", "en", None)
    with pytest.raises(ValueError, match=r"the tokenizer has no token <\|fr\|>"):
        check_language(processor.tokenizer, "fr", "transcribe")
    with pytest.raises(ValueError, match="language is 'klingon', which Whisper does not know"):
        check_language(processor.tokenizer, "klingon", None)


def test_labels_that_begin_differently_are_refused_and_both_beginnings_are_shown(build, processor):
    model = build()
    timed = build(None, None)
    timed.generation_config.return_timestamps = True
    with pytest.raises(
        ValueError,
        match=r"><\|notimestamps\|>, but generate\(\) begins with <\|startoftranscript\|> for",
    ):
        check_prompt(processor.tokenizer, timed.config, timed.generation_config, "X")
    with pytest.raises(ValueError) as refusal:
        check_prompt(processor.tokenizer, model.config, model.generation_config, "X")
    assert (
        "begin with <|startoftranscript|><|notimestamps|>, but generate() begins with "
        "<|startoftranscript|><|de|>" in str(refusal.value)
    )
    assert "language: de, task: transcribe" in str(refusal.value)
    model.generation_config.language = model.generation_config.task = None
    processor.tokenizer.set_prefix_tokens(language="de", task="transcribe")
    with pytest.raises(ValueError, match="but generate.. begins with .*<the language it detects>"):
        check_prompt(processor.tokenizer, model.config, model.generation_config, "X")


def test_with_an_old_configuration_the_model_itself_generates_the_notimestamps_token(
    build, processor
):
    model = build(None, None)
    del model.generation_config.no_timestamps_token_id
    assert read_first(model) == [SOT]
    check_prompt(processor.tokenizer, model.config, model.generation_config, "X")
    model.generation_config.forced_decoder_ids = [[1, EN]]
    with pytest.raises(ValueError, match="begins with .*<.en.>"):
        check_prompt(processor.tokenizer, model.config, model.generation_config, "X")


def test_a_configuration_derived_from_the_model_is_derived_again_on_loading(build, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    assert load_generation_config(tmp_path, model.config).language == "de"
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_from_model_config": True}))
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    derived = load_generation_config(tmp_path, model.config)
    assert not hasattr(derived, "language")
    assert generation_prompt(model.config, derived) == generation_prompt(
        loaded.config, loaded.generation_config
    )


class TestTrainer:
    def warnings(self, model, processor, tmp_path, caplog, start=False, **config) -> list[str]:
        labels = processor.tokenizer("ab").input_ids
        rows, retain = (
            [{"input_features": np.full((8, 100), value, "float32"), "labels": labels}]
            for value in (0, 1)
        )
        collator = SpeechCollator(processor, -1 if start else SOT)
        arguments = {"processing_class": processor, "eval_dataset": {"test": rows}}
        make_trainer(
            model,
            tmp_path,
            forget=rows,
            retain=retain,
            collator=collator,
            arguments=arguments,
            method="gradient_difference",
            **{"predict_with_generate": True, **config},
        )
        return [record.message for record in caplog.records if "generate()" in record.message]

    @pytest.mark.parametrize("language", ["de", None])
    def test_does_not_warn_if_both_are_the_same(self, build, processor, tmp_path, caplog, language):
        if language:
            processor.tokenizer.set_prefix_tokens(language="de", task="transcribe")
        assert not self.warnings(
            build(language, language and "transcribe"), processor, tmp_path, caplog
        )

    def test_warns_of_a_language_that_generate_detects(self, build, processor, tmp_path, caplog):
        model = build()
        model.generation_config.language = model.generation_config.task = None
        processor.tokenizer.set_prefix_tokens(language="de", task="transcribe")
        (message,) = self.warnings(model, processor, tmp_path, caplog)
        assert (
            "<|de|><|transcribe|><|notimestamps|>, but" in message
            and "generation_config.language" in message
        )

    def test_warns_of_a_duplicate_start_token(self, build, processor, tmp_path, caplog):
        (message,) = self.warnings(build(None, None), processor, tmp_path, caplog, start=True)
        assert "<|startoftranscript|><|startoftranscript|><|notimestamps|>, but" in message

    def test_needs_no_generate_for_losses(self, build, processor, tmp_path, caplog):
        assert not self.warnings(build(), processor, tmp_path, caplog, predict_with_generate=False)
