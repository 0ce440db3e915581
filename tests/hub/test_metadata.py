"""What goes into a card: codes of languages, lists, no paths, and an example that works."""

import pytest
from transformers import (
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from hf_unlearn.hub.metadata import is_path, language_codes, listed, name_for_readers
from hf_unlearn.hub.model_card import build_card, write_card
from hf_unlearn.hub.usage import NEEDED, processor_parts, saved_parts, usage
from hf_unlearn.report.results import Results
from tests.support.run_results import RESULTS, SALT
from tests.support.tiny import make_trainer, tiny_whisper
from tests.support.tiny_speech import letter_tokenizer


@pytest.mark.parametrize(
    "given, codes",
    [
        ("English", ["en"]),
        ("en", ["en"]),
        ("EN", ["en"]),
        ("<|de|>", ["de"]),
        (["german", "pt_BR"], ["de", "pt-br"]),
        ("Castilian", ["es"]),
        ("jw", ["jv"]),
        (False, ["no"]),
        ([False, "en"], ["no", "en"]),
        (None, []),
        ("", []),
        ("Klingonish", []),
        ("multilingual", ["multilingual"]),
    ],
)
def test_languages_are_codes(given, codes):
    assert language_codes(given) == codes


def test_a_text_is_one_entry_and_not_its_letters():
    assert (
        listed("moz") == ["moz"]
        and listed(("a", ["b", None])) == ["a", "b"]
        and listed(None) == listed({}) == []
    )


@pytest.mark.parametrize("tags", ["speech", ["speech"]])
def test_scalars_of_a_base_card_and_of_users(tmp_path, tags):
    (tmp_path / "README.md").write_text("---\nlanguage: no\ndatasets: moz\ntags: x\n---\n")
    data = build_card(
        Results.from_dict(RESULTS),
        base_model=str(tmp_path),
        datasets="me/speech",
        tags=tags,
        salt=SALT,
    ).data
    assert data.datasets == ["me/speech", "moz"] and data.language == "no"
    assert "speech" in data.tags and "s" not in data.tags


@pytest.mark.parametrize(
    "text",
    [
        "---\nlanguage: [en\n---\n",
        "---\n- a\n- b\n---\n",
        "\xff\xfe---",
        "---\na: &x [*x]\nlanguage: en\n---\n",
        # aliases of aliases that stand for a million values
        "---\na0: &a0 [en]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 7))
        + "language: *a6\n---\n",
    ],
)
def test_a_malformed_card_of_the_base_is_passed_over(tmp_path, text):
    (tmp_path / "README.md").write_bytes(text.encode("latin-1"))
    assert (
        build_card(Results.from_dict(RESULTS), base_model=str(tmp_path), salt=SALT).data.language
        is None
    )


def test_paths_are_known_and_words_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "fsdd").mkdir(parents=True)
    assert (
        is_path("/home/me/x")
        and is_path("data/fsdd")
        and is_path("./x")
        and is_path("~/x")
        and is_path("C:\\x\\y")
    )
    assert is_path("out/x", local=["out/x"])
    assert not is_path("data") and not is_path("user/name") and not is_path("arxiv:2503.02312")
    assert name_for_readers("DATA/FSDD - NA", local=["data/fsdd"]) == "FSDD - NA"
    assert (
        name_for_readers("/home/me/MODEL - NA") == "MODEL - NA"
        and name_for_readers("user/name") == "user/name"
        and name_for_readers(None) is None
    )


def test_arguments_of_the_card_mean_what_trainers_mean(tmp_path):
    trainer = make_trainer(tiny_whisper(), tmp_path / "out")
    trainer.train()
    local = tmp_path / "voices"
    local.mkdir()
    trainer.create_model_card(
        dataset_tags="me/speech",
        dataset="My Speech de",
        dataset_args="de",
        finetuned_from=str(local),
        language="German",
        tags=["automatic-speech-recognition", str(local)],
        model_name=str(local),
        tasks="automatic-speech-recognition",
    )
    results = Results.read(tmp_path / "out")
    results.unlearned = {"test": {"wer": 0.5}}
    write_card(tmp_path / "out", results, SALT)
    text = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in text and "`voices` made to forget" in text
    fine_tuned = build_card(results, salt=SALT, **results.card | {"fine_tuned": True})
    assert "`voices`, fine-tuned and then made to forget" in str(fine_tuned)
    data = build_card(results, salt=SALT, **results.card).data
    assert (
        data.datasets == ["me/speech"]
        and data.language == "de"
        and "base_model" not in data.to_dict()
    )
    (one,) = data.eval_results
    assert (one.dataset_type, one.dataset_name, one.dataset_args) == (
        "me/speech",
        "My Speech de: unseen samples",
        "de",
    )


def test_a_data_set_with_a_readable_name_only_is_no_id_of_the_hub(tmp_path):
    trainer = make_trainer(tiny_whisper(), tmp_path)
    trainer.train()
    trainer.create_model_card(dataset="beans")
    text = (tmp_path / "README.md").read_text()
    assert "samples of beans, with" in text and "datasets:" not in text


@pytest.fixture
def tokenizer(tmp_path):
    return letter_tokenizer(tmp_path, "<pad>", "<unk>", "|", "a", "b")


def test_a_pipeline_is_promised_only_with_all_it_needs(tmp_path, tokenizer):
    features, folder = Wav2Vec2FeatureExtractor(), tmp_path / "saved"
    assert processor_parts(features) == ["feature_extractor"] and processor_parts(None) == []
    assert processor_parts(Wav2Vec2Processor(features, tokenizer)) == [
        "tokenizer",
        "feature_extractor",
    ]
    features.save_pretrained(folder)
    (folder / "config.json").write_text('{"architectures": ["Wav2Vec2ForCTC"]}')
    assert saved_parts(folder) == {"feature_extractor"}
    text = str(write_card(folder, Results.from_dict(RESULTS), SALT))
    assert (
        "Wav2Vec2ForCTC.from_pretrained(" in text
        and "no tokenizer is saved" in text
        and "import pipeline" not in text
    )
    tokenizer.save_pretrained(folder)
    assert 'pipeline("automatic-speech-recognition"' in str(
        write_card(folder, Results.from_dict(RESULTS), SALT)
    )
    Wav2Vec2Processor(features, tokenizer).save_pretrained(tmp_path / "both")
    assert saved_parts(tmp_path / "both") == {"feature_extractor", "tokenizer"}


@pytest.mark.parametrize(
    "task, part",
    [
        ("image-classification", "image_processor"),
        ("text-classification", "tokenizer"),
        ("audio-classification", "feature_extractor"),
        ("text-generation", "tokenizer"),
    ],
)
def test_each_task_has_its_part(task, part):
    assert usage(task, "BertModel", {part})["pipeline"] == task
    assert usage(task, "BertModel", set()) == {
        "pipeline": None,
        "loads": "BertModel",
        "missing": [part.replace("_", " ")],
        "foreign": None,
    }


def test_no_pipeline_is_promised_that_transformers_does_not_have():
    assert usage("summarization", "BartForConditionalGeneration", {"tokenizer"})["pipeline"] is None
    assert set(NEEDED) <= set(PIPELINE_REGISTRY.get_supported_tasks())


def test_a_class_that_transformers_does_not_have_is_said_to_be_one():
    assert usage("", "Mine", set())["foreign"] == "Mine"
    assert (
        "which is not a class of `transformers`"
        in build_card(Results.from_dict(RESULTS), salt=SALT, architecture="Mine").text
    )
