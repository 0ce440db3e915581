"""Models of one run must have the same processor and classes."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from transformers import (
    ViTConfig,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
)

from hf_unlearn.experiments.checks.processor_checks import check_processors, describe_difference
from hf_unlearn.experiments.images.recipe import ImageRecipe
from hf_unlearn.experiments.options import RecipeArguments
from tests.support.tiny_speech import letter_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    return letter_tokenizer(tmp_path, "<pad>", "<unk>", "|", "a", "b")


def recipe_of(processor, others, **options):
    def processor_of(name):
        if name not in others:
            raise OSError(f"no processor in {name}")
        return others[name]

    return SimpleNamespace(
        processor=processor,
        options=RecipeArguments(**options),
        processor_of=processor_of,
        check_retrained=lambda name: None,
    )


def test_a_gold_model_with_other_tokens_is_refused(tmp_path, tokenizer):
    (tmp_path / "other.json").write_text(
        json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "b": 3, "a": 4})
    )
    other = Wav2Vec2CTCTokenizer(tmp_path / "other.json")
    fine = recipe_of(tokenizer, {"gold": tokenizer}, gold="gold")
    check_processors(fine)
    with pytest.raises(
        ValueError, match="gold: the processor of g differs .*token 3 is 'b' and not 'a'"
    ):
        check_processors(recipe_of(tokenizer, {"g": other}, gold="g"))
    with pytest.raises(
        ValueError, match="base_model: the processor of b differs from the run's .m."
    ):
        check_processors(
            recipe_of(tokenizer, {"b": other}, model="m", gold="train", base_model="b")
        )
    # the run's own
    check_processors(recipe_of(tokenizer, {"b": other}, base_model="b"))
    # with a warning: nothing to compare
    check_processors(recipe_of(tokenizer, {}, gold="weights-only"))
    timed = Wav2Vec2CTCTokenizer(tmp_path / "vocab.json")
    timed.add_tokens(["<|0.00|>"])
    # added tokens may be missing
    assert describe_difference(tokenizer, timed) is None


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
    [
        (["cat", "dog"], True),
        (["dog", "cat"], True),
        (["LABEL_0", "LABEL_1"], True),
        (["n01", "n02"], True),
        (["red", "blue"], False),
        (["cat", "dog", "cow"], True),
        (["red", "blue", "green"], False),
    ],
)
def test_a_gold_model_of_other_classes_is_refused(tmp_path, labels, fits):
    for name, names in (("gold", labels), ("own", ["n01", "n02"])):
        ViTConfig(
            id2label=dict(enumerate(names)), label2id={label: n for n, label in enumerate(names)}
        ).save_pretrained(tmp_path / name)
    recipe = SimpleNamespace(
        options=RecipeArguments(model=str(tmp_path / "own")),
        classes=["cat", "dog"],
    )
    with nullcontext() if fits else pytest.raises(ValueError, match="labels"):
        ImageRecipe.check_retrained(recipe, str(tmp_path / "gold"))
