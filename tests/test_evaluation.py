"""Evaluation of a tiny Whisper through Seq2SeqTrainer, and of texts through compute_metrics."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    EvalPrediction,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
    default_data_collator,
)

from hf_unlearn.evaluation import (
    asr_metrics,
    classification_metrics,
    evaluate_splits,
    f1_metrics,
    sample_features,
)
from hf_unlearn.metrics.quality import error_rate, word_errors
from tests.support.tiny_speech import letter_tokenizer

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "cat", "sat", "mat", "um", "one", "two"]


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def ids(*texts, start=(1,), padding=-100, length=6):
    rows = [[*start, *(WORDS.index(word) for word in text.split()), 2] for text in texts]
    return np.array([row + [padding] * (length - len(row)) for row in rows])


def test_error_rates_are_computed_from_padded_ids(tokenizer):
    evaluated = EvalPrediction(
        predictions=ids("cat sat mat", "one one"), label_ids=ids("cat sat", "one two", start=())
    )
    rates = asr_metrics(tokenizer, normalize=False)(evaluated)
    assert set(rates) == {"wer", "wer_low", "wer_high", "cer", "cer_low", "cer_high", "loops"}
    assert rates["wer"] == pytest.approx(50.0)
    # " mat" inserted; two -> one
    assert rates["cer"] == pytest.approx(100 * (4 + 3) / 14)
    assert rates["wer_low"] <= rates["wer"] <= rates["wer_high"]


def test_predictions_in_a_tuple_padded_with_the_pad_token(tokenizer):
    predictions = ids("cat sat", "", padding=0)
    evaluated = EvalPrediction(
        predictions=(predictions, np.zeros(1)), label_ids=ids("cat sat", "mat", start=())
    )
    rates = asr_metrics(tokenizer, resamples=0)(evaluated)
    assert rates == {"wer": pytest.approx(100 / 3), "cer": pytest.approx(30.0), "loops": 0.0}


def test_reference_that_normalisation_empties_counts_insertions(tokenizer):
    evaluated = EvalPrediction(
        predictions=ids("cat mat", "mat"), label_ids=ids("cat sat", "um", start=())
    )
    assert asr_metrics(tokenizer)(evaluated)["wer"] == pytest.approx(100 * 2 / 2)


def test_normaliser_joins_spoken_digits_unless_told_not_to(tokenizer):
    evaluated = EvalPrediction(predictions=ids("one one"), label_ids=ids("one two", start=()))
    rates = {
        choice: asr_metrics(tokenizer, normalize=choice)(evaluated)["wer"]
        for choice in (True, False, str.upper)
    }
    assert rates == {True: 100.0, False: 50.0, str.upper: 50.0}


def test_spelling_does_not_depend_on_what_a_saved_tokenizer_has_kept(tmp_path):
    letters = {letter: i for i, letter in enumerate("colur")} | {"<|endoftext|>": 5}
    WhisperTokenizer(vocab=letters, merges=[]).save_pretrained(tmp_path)
    tokenizer = WhisperTokenizer.from_pretrained(tmp_path)
    assert tokenizer.english_spelling_normalizer is None
    rows = {text: np.array([[letters[letter] for letter in text]]) for text in ("colour", "color")}
    evaluated = EvalPrediction(predictions=rows["colour"], label_ids=rows["color"])
    assert asr_metrics(tokenizer)(evaluated)["wer"] == 0.0
    assert asr_metrics(tokenizer, normalize="basic")(evaluated)["wer"] == 100.0


def test_the_language_decides_what_rate_leads_and_is_said(tokenizer):
    assert asr_metrics(tokenizer).scoring == {"normalizer": "english", "leads": "wer"}
    assert asr_metrics(tokenizer, language="Japanese").scoring == {
        "normalizer": "basic",
        "leads": "cer",
    }
    assert asr_metrics(tokenizer, language="de", normalize=False).scoring == {
        "normalizer": "none",
        "leads": "wer",
    }


def test_references_of_labels_in_another_style(tokenizer):
    evaluated = EvalPrediction(predictions=ids("cat sat"), label_ids=ids("cat mat", start=()))
    rates = asr_metrics(tokenizer, normalize=False, references={"cat mat": "cat sat"})(evaluated)
    assert rates["wer"] == 0.0


@pytest.fixture(scope="module")
def ctc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctc")
    return letter_tokenizer(folder, "<pad>", "<s>", "</s>", "<unk>", "|", *"ehlortbks")


def frames(tokenizer, *texts, padding=-100):
    """Ids of these texts: one letter for each frame, "_" for the blank."""
    rows = [[tokenizer.get_vocab().get(letter, 0) for letter in text] for text in texts]
    return np.array([row + [padding] * (max(map(len, rows)) - len(row)) for row in rows])


@pytest.mark.parametrize("scores", [False, True], ids=["ids", "logits"])
def test_ctc_repeats_are_merged_in_what_was_heard_only(ctc, scores):
    heard = frames(ctc, "hhel_llo|__thre_ee", "s_e|helo|bok")
    labels = frames(ctc, "hello|three", "see|hello|book")
    if scores:
        padding = heard == -100
        heard = np.eye(len(ctc))[np.where(padding, 0, heard)]
        # as Trainer fills up batches
        heard[padding] = -100
    texts = []
    rates = asr_metrics(ctc, normalize=False, texts=texts, resamples=0)(
        EvalPrediction(heard, labels)
    )
    assert texts == [(["hello three", "se helo bok"], ["hello three", "see hello book"])]
    assert rates == {"wer": pytest.approx(60.0), "cer": pytest.approx(100 * 3 / 25), "loops": 0.0}


def test_ctc_special_tokens_part_no_letters(ctc):
    t, start = ctc.get_vocab()["t"], ctc.get_vocab()["<s>"]
    texts = []
    evaluated = EvalPrediction(np.array([[t, start, t], [t, t, 0]]), frames(ctc, "tt", "t"))
    assert asr_metrics(ctc, texts=texts, resamples=0)(evaluated)["cer"] == 0.0 and texts[0][0] == [
        "tt",
        "t",
    ]


def test_ctc_with_a_tokenizer_that_cannot_merge(tokenizer):
    # cat cat _ cat | sat: a blank parts two words
    heard, texts = np.array([[4, 4, 0, 4, 5]]), []
    evaluated = EvalPrediction(heard, np.array([[4, 4, 5]]))
    options = {"normalize": "none", "resamples": 0, "texts": texts}
    assert asr_metrics(tokenizer, ctc=True, **options)(evaluated)["wer"] == 0.0
    assert texts == [(["cat cat sat"], ["cat cat sat"])]


def test_looping_output_is_counted(tokenizer):
    heard = ids("cat sat " * 3, "one two " * 40, length=82)
    evaluated = EvalPrediction(heard, ids("cat sat", "one two", start=()))
    assert asr_metrics(tokenizer, normalize="none")(evaluated)["loops"] == 50.0


def test_error_rates_of_scores_are_refused(tokenizer):
    evaluated = EvalPrediction(predictions=np.zeros((2, 6, 10)), label_ids=ids("cat", "sat"))
    with pytest.raises(ValueError, match="predict_with_generate=True"):
        asr_metrics(tokenizer)(evaluated)


@pytest.fixture(scope="module")
def trainer(tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(WORDS),
        num_mel_bins=4,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_source_positions=10,
        max_target_positions=12,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    args = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path_factory.mktemp("out")),
        per_device_eval_batch_size=2,
        predict_with_generate=True,
        generation_max_length=6,
        report_to="none",
        use_cpu=True,
    )
    model = WhisperForConditionalGeneration(config)
    return Seq2SeqTrainer(
        model,
        args,
        data_collator=default_data_collator,
        processing_class=tokenizer,
        compute_metrics=asr_metrics(tokenizer),
    )


def utterances(*texts):
    features = torch.randn(len(texts), 4, 20, generator=torch.Generator().manual_seed(1)).tolist()
    labels = ids(*texts, start=()).tolist()
    return [{"input_features": x, "labels": y} for x, y in zip(features, labels)]


def test_splits_have_the_trainers_own_numbers(trainer, tokenizer):
    splits = {"forget": utterances("cat sat", "mat", "one"), "test": utterances("two", "sat sat")}
    results = evaluate_splits(trainer, splits)
    assert list(results) == ["forget", "test"]
    assert [result["samples"] for result in results.values()] == [3, 2]
    for name, dataset in splits.items():
        metrics = trainer.evaluate(dataset)
        for key in ("loss", "wer", "wer_low", "wer_high", "cer", "cer_low", "cer_high"):
            assert results[name][key] == pytest.approx(metrics[f"eval_{key}"])
    assert set(results["forget"]) == {
        "samples",
        "loss",
        "wer",
        "wer_low",
        "wer_high",
        "cer",
        "cer_low",
        "cer_high",
        "loops",
    }
    assert "eval_test_wer" in set().union(*trainer.state.log_history)


def test_word_error_rate_is_that_of_generate(trainer, tokenizer):
    dataset = utterances("cat sat", "mat one two")
    features = torch.tensor([row["input_features"] for row in dataset])
    texts = tokenizer.batch_decode(
        trainer.model.generate(features, max_length=6), skip_special_tokens=True
    )
    expected = error_rate(*word_errors(texts, ["cat sat", "mat one two"]))
    trainer.compute_metrics = asr_metrics(tokenizer, normalize=False)
    assert evaluate_splits(trainer, {"test": dataset})["test"]["wer"] == pytest.approx(expected)


def test_features_of_utterances_are_those_of_each_alone(trainer):
    dataset = utterances("cat sat", "mat one two", "um")
    features = sample_features(trainer, dataset)
    for number, row in enumerate(dataset):
        with torch.no_grad():
            alone = trainer.model(
                torch.tensor([row["input_features"]]), labels=torch.tensor([row["labels"]])
            )
        right = (alone.logits[0].argmax(-1) == torch.tensor(row["labels"]))[
            torch.tensor(row["labels"]) != -100
        ]
        assert features["loss"][number] == pytest.approx(alone.loss.item(), rel=1e-4)
        assert features["correctness"][number] == pytest.approx(right.double().mean().item())
    assert trainer.args.predict_with_generate and trainer.compute_metrics is not None


def test_an_empty_split_is_refused(trainer):
    with pytest.raises(ValueError, match="split 'other' has no samples"):
        evaluate_splits(trainer, {"other": []})


def test_accuracy_is_computed_from_logits():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    for predictions in (logits, (logits, np.zeros(1))):
        rates = classification_metrics(
            EvalPrediction(predictions=predictions, label_ids=np.array([0, 1, 1]))
        )
        assert (
            rates["accuracy"] == pytest.approx(200 / 3)
            and rates["accuracy_low"] < rates["accuracy_high"]
        )
    with_f1 = f1_metrics(EvalPrediction(predictions=logits, label_ids=np.array([0, 1, 1])))
    assert with_f1 == {**rates, "f1_macro": pytest.approx(200 / 3)}
    assert set(with_f1) == set(f1_metrics.metric_names)
    # A model that has diverged recognises nothing, not the first class either.
    broken = EvalPrediction(predictions=np.full((2, 3), np.nan), label_ids=np.array([0, 0]))
    assert classification_metrics(broken)["accuracy"] == 0 == f1_metrics(broken)["accuracy"]
    with pytest.raises(ValueError, match="give a model for classification"):
        classification_metrics(
            EvalPrediction(predictions=np.zeros((2, 6, 10)), label_ids=np.zeros(2))
        )
