"""What goes into a card: codes of languages, lists, no paths, an example that works; and what may
not end a run."""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from transformers import (
    ViTConfig,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from hf_unlearn import UnlearnConfig
from hf_unlearn.experiments.checks.processor_checks import check_processors, describe_difference
from hf_unlearn.experiments.images.recipe import ImageRecipe
from hf_unlearn.hub.metadata import is_path, language_codes, listed, shown
from hf_unlearn.hub.model_card import build_card, write_card
from hf_unlearn.hub.usage import NEEDED, processor_parts, saved_parts, usage
from hf_unlearn.report.best_effort import warn_if_not_written
from hf_unlearn.report.environment import emissions
from hf_unlearn.report.results import Results
from tests.support.run_results import RESULTS, SALT
from tests.support.tiny import make_trainer, tiny_whisper


@pytest.mark.parametrize(
    "given, codes",
    [
        ("English", ["en"]), ("en", ["en"]), ("EN", ["en"]), ("<|de|>", ["de"]),
        (["german", "pt_BR"], ["de", "pt-br"]),
        ("Castilian", ["es"]), ("jw", ["jv"]), (False, ["no"]), ([False, "en"], ["no", "en"]),
        (None, []), ("", []),
        ("Klingonish", []), ("multilingual", ["multilingual"]),
    ],
)  # fmt: skip
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
    assert shown("DATA/FSDD - NA", local=["data/fsdd"]) == "FSDD - NA"
    assert (
        shown("/home/me/MODEL - NA") == "MODEL - NA"
        and shown("user/name") == "user/name"
        and shown(None) is None
    )


def test_arguments_of_the_card_mean_what_trainers_mean(tmp_path):
    trainer = make_trainer(tiny_whisper(), tmp_path / "out")
    trainer.train()
    local = tmp_path / "voices"
    local.mkdir()
    trainer.create_model_card(
        dataset_tags="me/speech", dataset="My Speech de", dataset_args="de",
        finetuned_from=str(local), language="German",
        tags=["automatic-speech-recognition", str(local)], model_name=str(local),
        tasks="automatic-speech-recognition",
    )  # fmt: skip
    results = Results.read(tmp_path / "out")
    results.unlearned = {"test": {"wer": 0.5}}
    write_card(tmp_path / "out", results, SALT)
    text = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in text and "`voices` made to forget" in text
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


# ---- the example ---------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.json").write_text(
        json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 4})
    )
    return Wav2Vec2CTCTokenizer(tmp_path / "vocab.json")


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
        "pipeline": None, "loads": "BertModel", "missing": [part.replace("_", " ")],
        "foreign": None,
    }  # fmt: skip


def test_no_pipeline_is_promised_that_transformers_does_not_have():
    assert usage("summarization", "BartForConditionalGeneration", {"tokenizer"})["pipeline"] is None
    assert set(NEEDED) <= set(PIPELINE_REGISTRY.get_supported_tasks())


def test_a_class_that_transformers_does_not_have_is_said_to_be_one():
    assert usage("", "Mine", set())["foreign"] == "Mine"
    assert (
        "which is not a class of `transformers`"
        in build_card(Results.from_dict(RESULTS), salt=SALT, architecture="Mine").text
    )


# ---- nothing ends a finished run -----------------------------------------------------------------


def test_what_fails_after_a_run_is_a_warning(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr("hf_unlearn.report.best_effort.logger.warning", messages.append)
    with warn_if_not_written("report.html", tmp_path):
        raise OSError("disk full")
    assert (
        len(messages) == 1
        and "report.html could not be written" in messages[0]
        and "disk full" in messages[0]
    )


def test_a_card_that_fails_leaves_results(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "hf_unlearn.trainer.publishing.publisher.write_card", lambda *_, **__: 1 / 0
    )
    trainer = make_trainer(tiny_whisper(), tmp_path)
    trainer.train()
    trainer.create_model_card()
    assert json.loads((tmp_path / "results.json").read_text())["task"] == "data"


def test_arguments_of_a_class_that_cannot_be_pickled_do_not_cost_the_run(tmp_path):
    @dataclass
    class Mine(UnlearnConfig):
        extra: int = 0

    trainer = make_trainer(tiny_whisper(), tmp_path)
    trainer.args = Mine(output_dir=str(tmp_path), use_cpu=True)
    trainer.save_model()
    assert (tmp_path / "model.safetensors").exists() and not (
        tmp_path / "training_args.bin"
    ).exists()


@pytest.mark.parametrize(
    "text", ["timestamp,kg\n1,2\n", "timestamp,emissions\n1,much\n", "emissions\n\n"]
)
def test_a_broken_file_of_emissions_is_told_as_none(tmp_path, text):
    (tmp_path / "emissions.csv").write_text(text)
    assert emissions(SimpleNamespace(output_dir=tmp_path, report_to=["codecarbon"])) is None


# ---- models of one run ---------------------------------------------------------------------------


def recipe_of(processor, others, **options):
    given = {"model": "train", "gold": "none", "base_model": None, "trains": True, **options}

    def processor_of(name):
        if name not in others:
            raise OSError(f"no processor in {name}")
        return others[name]

    return SimpleNamespace(
        processor=processor,
        options=SimpleNamespace(**given),
        processor_of=processor_of,
        check_gold=lambda name: None,
    )


def test_a_gold_model_with_other_tokens_is_refused(tmp_path, tokenizer):
    (tmp_path / "other.json").write_text(
        json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "b": 3, "a": 4})
    )
    other = Wav2Vec2CTCTokenizer(tmp_path / "other.json")
    fine = recipe_of(tokenizer, {"gold": tokenizer}, gold="gold")
    check_processors(fine)
    with pytest.raises(ValueError, match="gold: g does not go with .*token 3 is 'b' and not 'a'"):
        check_processors(recipe_of(tokenizer, {"g": other}, gold="g"))
    with pytest.raises(ValueError, match="base_model: b does not go with the run's processor .m."):
        check_processors(
            recipe_of(tokenizer, {"b": other}, model="m", gold="train", base_model="b")
        )
    check_processors(recipe_of(tokenizer, {"b": other}, base_model="b"))  # the run's own
    # with a warning: nothing to compare
    check_processors(recipe_of(tokenizer, {}, gold="weights-only"))
    timed = Wav2Vec2CTCTokenizer(tmp_path / "vocab.json")
    timed.add_tokens(["<|0.00|>"])
    assert describe_difference(tokenizer, timed) is None  # added tokens may be missing


def test_models_that_take_other_inputs_are_refused():
    ours = Wav2Vec2FeatureExtractor(sampling_rate=16000)
    assert describe_difference(ours, Wav2Vec2FeatureExtractor(sampling_rate=16000)) is None
    assert (
        describe_difference(ours, Wav2Vec2FeatureExtractor(sampling_rate=8000))
        == "its sampling_rate is 8000 and not 16000"
    )


def test_images_of_another_size_or_normalisation_are_refused():
    from transformers import ViTImageProcessor

    def processor(size=8, mean=0.5):
        return ViTImageProcessor(
            size={"height": size, "width": size}, image_mean=[mean] * 3, image_std=[0.5] * 3
        )

    assert describe_difference(processor(), processor()) is None
    assert "size" in describe_difference(processor(), processor(size=16))
    assert "image_mean" in describe_difference(processor(), processor(mean=0.4))


@pytest.mark.parametrize(
    "labels, fits",
    [(["cat", "dog"], True), (["dog", "cat"], True), (["LABEL_0", "LABEL_1"], True),
     (["n01", "n02"], True),
     (["red", "blue"], False), (["cat", "dog", "cow"], True), (["red", "blue", "green"], False)],
)  # fmt: skip
def test_a_gold_model_of_other_classes_is_refused(tmp_path, labels, fits):
    for name, names in (("gold", labels), ("own", ["n01", "n02"])):
        ViTConfig(
            id2label=dict(enumerate(names)), label2id={label: n for n, label in enumerate(names)}
        ).save_pretrained(tmp_path / name)
    recipe = SimpleNamespace(
        options=SimpleNamespace(model=str(tmp_path / "own"), base_model=None),
        classes=["cat", "dog"],
    )
    with nullcontext() if fits else pytest.raises(ValueError, match="labels"):
        ImageRecipe.check_gold(recipe, str(tmp_path / "gold"))
