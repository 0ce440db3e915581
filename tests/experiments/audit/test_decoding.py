"""The doors for speech on a tiny multilingual Whisper: each asks `generate` for what it says."""

import contextlib
import copy
import dataclasses
from types import SimpleNamespace

import pytest
from peft import LoraConfig, get_peft_model
from transformers import WhisperForConditionalGeneration

from hf_unlearn.experiments.audit import DOORS, AuditSettings, DoorUnavailable, Subject
from hf_unlearn.experiments.audit.decoding import others_and_asked, prompt_of
from hf_unlearn.experiments.audit.examiner import SpeechExaminer, without_prompt
from tests.experiments.audit.subjects import SETTINGS, new_whisper, speech_recipe


@pytest.fixture
def subject(monkeypatch) -> Subject:
    recipe = speech_recipe(monkeypatch)
    model = new_whisper(recipe).eval()
    subject = Subject("unlearned", model, SpeechExaminer(recipe, model, 100), recipe, SETTINGS)
    subject.subjects = {"original": subject}
    return subject


@pytest.fixture
def prompts(subject, monkeypatch) -> list[dict]:
    """The prompt's tokens, and the number of beams, of each call of the decoder's first step."""
    seen, model = [], subject.model
    decode = type(model).prepare_inputs_for_generation

    def record(self, ids, **keywords):
        if not seen:
            seen.append({"tokens": ids[0].tolist(), "rows": len(ids)})
        return decode(self, ids, **keywords)

    monkeypatch.setattr(type(model), "prepare_inputs_for_generation", record)
    return seen


@pytest.mark.parametrize(
    ("door", "words"),
    [
        ("float32", "<|startoftranscript|><|en|><|transcribe|><|notimestamps|>"),
        ("beams", "<|startoftranscript|><|en|><|transcribe|><|notimestamps|>"),
        ("wrong_language", "<|startoftranscript|><|de|><|transcribe|><|notimestamps|>"),
        ("translate", "<|startoftranscript|><|en|><|translate|><|notimestamps|>"),
        ("own_words", "<|startofprev|> red green blue go left stop now<|startoftranscript|><|en|>"),
    ],
)
def test_a_door_prompts_the_decoder_as_it_says(subject, prompts, door, words):
    found = DOORS[door].measure(subject)
    assert found.unit == "WER (%)" and found.value >= 0
    said = subject.recipe.processor.tokenizer.decode(prompts[0]["tokens"])
    assert said.startswith(words), said
    rows = len(subject.examiner.splits["forget_test"])
    assert prompts[0]["rows"] == rows * (SETTINGS.num_beams if door == "beams" else 1)


def test_without_a_language_the_model_detects_it(subject, monkeypatch):
    detected, detect = [], type(subject.model).detect_language
    monkeypatch.setattr(
        type(subject.model),
        "detect_language",
        lambda *args, **keywords: detected.append(1) or detect(*args, **keywords),
    )
    DOORS["float32"].measure(subject)
    assert not detected
    DOORS["no_language"].measure(subject)
    assert detected
    # The door has left the model as it was.
    assert subject.model.generation_config.language == "en"


def test_settings_at_their_defaults_do_not_change_what_is_decoded(subject):
    """Saved by another version of transformers, a file may name all defaults."""
    theirs = copy.deepcopy(subject)
    subject.subjects = {"original": theirs}
    settings = theirs.model.generation_config
    settings.update(num_beams=1, temperature=1.0, length_penalty=1.0, suppress_tokens=None)
    with pytest.raises(DoorUnavailable, match="same generation settings"):
        DOORS["as_the_original_decodes"].measure(subject)
    settings.suppress_tokens = [1]
    assert DOORS["as_the_original_decodes"].measure(subject).unit == "WER (%)"


def test_doors_without_tokens_or_room_are_unavailable(subject):
    with pytest.raises(DoorUnavailable, match="no tokens for time stamps"):
        DOORS["timestamps"].measure(subject)
    subject.model.config.max_target_positions = 12
    with pytest.raises(DoorUnavailable, match="12 positions leave no room"):
        prompt_of(subject, *others_and_asked(subject))
    subject.model.generation_config.lang_to_id = None
    with pytest.raises(DoorUnavailable, match="several languages"):
        DOORS["wrong_language"].measure(subject)


def test_a_prompt_never_holds_the_words_that_are_asked_for(subject):
    splits = subject.examiner.splits
    assert others_and_asked(subject) == (splits["forget"], splits["forget_test"])
    subject.examiner.judged_split = "forget"
    assert others_and_asked(subject) == (splits["forget_test"], splits["forget"])
    del splits["forget_test"]
    said, asked = others_and_asked(subject)
    assert said["id"][:] == ["forget-0", "forget-2"]
    assert asked["id"][:] == ["forget-1", "forget-3"]
    splits["forget"] = asked.select([0])
    with pytest.raises(DoorUnavailable, match="only one forgotten sample"):
        others_and_asked(subject)


def test_only_what_follows_the_prompt_is_transcribed():
    import torch

    assert without_prompt(3, torch.tensor([9, 8, 3, 4, 5])) == [4, 5]
    assert without_prompt(3, torch.tensor([4, 5])) == [4, 5]


def test_the_other_samples_are_those_by_which_no_other_door_judges(subject):
    examiner, door = subject.examiner, DOORS["other_samples"]
    for judged, other in (("forget_test", "forget"), ("forget", "forget_test")):
        examiner.judged_split = judged
        found = door.measure(subject)
        assert found.value == examiner.recognition(subject.model, examiner.splits[other]).value
        assert found.more["split"] == other and found.more["measured_on"] == 4
    del examiner.splits["forget_test"]
    with pytest.raises(DoorUnavailable, match="no split forget_test besides forget"):
        door.measure(subject)


def test_an_adapter_is_measured_beside_its_base(subject, tmp_path):
    subject.model.save_pretrained(tmp_path / "base")
    base = WhisperForConditionalGeneration.from_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["q_proj", "fc1"], init_lora_weights=False)
    adapter = get_peft_model(base, config)
    adapter.save_pretrained(tmp_path / "adapter")
    subject.recipe.load_model = WhisperForConditionalGeneration.from_pretrained
    merged = Subject(
        "unlearned",
        adapter.merge_and_unload().eval(),
        subject.examiner,
        subject.recipe,
        SETTINGS,
        str(tmp_path / "adapter"),
    )
    whole, apart = DOORS["float32"].measure(merged), DOORS["adapter_unmerged"].measure(merged)
    assert apart.value == whole.value != DOORS["float32"].measure(subject).value
    with pytest.raises(DoorUnavailable, match="no adapter"):
        DOORS["adapter_unmerged"].measure(subject)


def test_doors_name_all_settings_that_they_depend_on(subject, monkeypatch):
    """Others are not measured again where such a setting has changed."""
    subject.recipe.load_model = WhisperForConditionalGeneration.from_pretrained
    subject.recipe.unprepared = SimpleNamespace(parts=dict)
    read = set()
    fields = {field.name for field in dataclasses.fields(AuditSettings)}

    def setting(settings, name):
        read.update({name} & fields)
        return object.__getattribute__(settings, name)

    chosen = property(lambda _: read.add("judged_split") or "forget_test")
    monkeypatch.delattr(subject.examiner, "judged_split")
    monkeypatch.setattr(type(subject.examiner), "judged_split", chosen, raising=False)
    monkeypatch.setattr(AuditSettings, "__getattribute__", setting)
    not_named = {}
    for door in DOORS.values():
        read.clear()
        with contextlib.suppress(DoorUnavailable):
            door.measure(subject)
        not_named[door.name] = read - set(door.settings)
    assert not any(not_named.values()), not_named
    assert "num_beams" in DOORS["beams"].settings and not DOORS["loss"].settings
