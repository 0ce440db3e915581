"""Evaluates models through their trainer, in one process or many: WER, CER, accuracy, loss and what
membership attacks need."""

from collections.abc import Callable, Mapping, MutableSequence
from typing import cast

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import EvalPrediction, PreTrainedTokenizerBase, ProcessorMixin, Trainer
from transformers.trainer_utils import PredictionOutput

from .metrics.described_metrics import DescribedMetrics, in_percent
from .metrics.metric_names import is_metric
from .metrics.normalizers import Normalizer, normalizer
from .metrics.quality import CharacterErrorRate, WordErrorRate, accuracy, f1_macro, looping
from .metrics.sample_features import ctc_losses, features, predicted_classes
from .metrics.scales import PERCENT
from .metrics.token_texts import decode, groups_tokens, transcribe
from .models import base_model, replaced

# The keys of `classification_metrics`.
CLASSIFICATION = ("accuracy", "accuracy_low", "accuracy_high")


class TextMetrics(DescribedMetrics):
    """What `asr_metrics` returns.

    Args:
        options: of the bootstrap intervals.
    """

    scale = PERCENT
    scoring: dict[str, str]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        normalizer: Normalizer,
        ctc: bool,
        options: dict[str, int],
        texts: MutableSequence | None,
        references: Mapping[str, str],
    ):
        self._tokenizer, self._clean, self._ctc = tokenizer, normalizer.clean, ctc
        self._options, self._texts, self._references = options, texts, references
        self._metrics = WordErrorRate(), CharacterErrorRate()
        ends = ("", "_low", "_high") if options["resamples"] else ("",)
        self.metric_names = [name + end for name in ("wer", "cer") for end in ends] + ["loops"]
        self.needs_texts = not ctc
        leads = "cer" if normalizer.unspaced else "wer"
        self.scoring = {"normalizer": normalizer.name, "leads": leads}

    def __call__(self, evaluated: EvalPrediction) -> dict[str, float]:
        transcripts = self._transcripts(evaluated)
        predictions, references = self._normalised(transcripts, evaluated)
        if self._texts is not None:
            self._texts.append((predictions, references))
        texts = {"predictions": predictions, "references": references}
        words, characters = (
            metric.compute(**texts, allow_empty=True, **self._options) for metric in self._metrics
        )
        loops = float(np.mean([looping(text) for text in transcripts]))
        return words | characters | {"loops": 100 * loops}

    def texts(self, evaluated: EvalPrediction) -> tuple[list[str], list[str]]:
        """The predictions and references that are compared: normalised texts."""
        return self._normalised(self._transcripts(evaluated), evaluated)

    def _transcripts(self, evaluated: EvalPrediction) -> list[str]:
        predictions = evaluated.predictions
        if isinstance(predictions, tuple):
            predictions = predictions[0]
        return transcribe(self._tokenizer, predictions, ctc=self._ctc)

    def _normalised(
        self, transcripts: list[str], evaluated: EvalPrediction
    ) -> tuple[list[str], list[str]]:
        labels = decode(self._tokenizer, evaluated.label_ids)
        references = [self._clean(self._references.get(text, text)) for text in labels]
        return [self._clean(text) for text in transcripts], references


def asr_metrics(
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    *,
    normalize: bool | str | Callable[[str], str] = True,
    language: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    texts: MutableSequence | None = None,
    references: Mapping[str, str] | None = None,
    ctc: bool | None = None,
) -> TextMetrics:
    """A `compute_metrics` for speech recognition, with `generate` (predict_with_generate=True) or
    with CTC models.

    Args:
        processor: a processor or its tokenizer. It decodes generated ids and labels, without
            special tokens.
        normalize: "english" for Whisper's English normaliser; "basic" for lower case without
            punctuation, for other languages; "none" for unchanged texts; or a function of a text.
            True chooses "english" or "basic" by the language, False is "none". The English
            normaliser writes numbers in digits and joins spoken digits ("one two three" becomes the
            single word "123"), so connected digits need False.
        language: code or English name; default: the tokenizer's. If the tokenizer has none, the
            letters of its vocabulary decide whether the language is English, and whether it is
            written without spaces.
        texts: a list to which every evaluation appends (predictions, references), two lists of
            normalised texts.
        resamples, seed: of the 95 % bootstrap intervals over utterances; resamples=0 omits the
            intervals.
        references: {a label's text: the true text}, for labels that are written in another style.
        ctc: whether the predictions are a CTC model's, in which repeats are merged before special
            tokens are dropped. Default: True if the tokenizer can merge repeats itself.

    Returns:
        Function of an EvalPrediction -> {"wer", "wer_low", "wer_high", "cer", "cer_low",
        "cer_high", "loops"}, in percent. "loops" is the share of predictions that repeat
        themselves (see `metrics.quality.looping`). Where normalisation empties a reference ("um"),
        it adds no words, and the words predicted for it count as insertions. The function's
        attribute `scoring` is {"normalizer": name, "leads": the error rate to judge by}: "cer" for
        languages without spaces between words, else "wer". The function raises ValueError for
        logits that are not a CTC model's, and where no reference has a word.
    """
    tokenizer = processor.tokenizer if isinstance(processor, ProcessorMixin) else processor
    ctc = groups_tokens(tokenizer) if ctc is None else ctc
    return TextMetrics(
        tokenizer,
        normalizer(normalize, language, tokenizer),
        ctc,
        {"resamples": resamples, "seed": seed},
        texts,
        references or {},
    )


def most_likely(logits: torch.Tensor | tuple, labels: torch.Tensor) -> torch.Tensor:
    """A `preprocess_logits_for_metrics` for CTC models: the most likely token of each frame (n,
    frames), so that an evaluation does not keep the logits of a whole split."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


@in_percent(*CLASSIFICATION)
def classification_metrics(evaluated: EvalPrediction) -> dict[str, float]:
    """A `compute_metrics` for classification: {"accuracy", "accuracy_low", "accuracy_high"}, in
    percent.

    Raises:
        ValueError: the model's first output is not logits of shape (n, classes).
    """
    return accuracy(predicted_classes(prediction_logits(evaluated)), evaluated.label_ids)


@in_percent(*CLASSIFICATION, "f1_macro")
def f1_metrics(evaluated: EvalPrediction) -> dict[str, float]:
    """A `compute_metrics` for classes of unequal size, such as keywords and intents: the entries of
    `classification_metrics`, and "f1_macro", in percent.

    Raises:
        ValueError: as `classification_metrics`.
    """
    predicted = predicted_classes(prediction_logits(evaluated))
    rates = accuracy(predicted, evaluated.label_ids)
    return rates | {"f1_macro": f1_macro(predicted, evaluated.label_ids)}


def prediction_logits(evaluated: EvalPrediction | PredictionOutput) -> np.ndarray:
    """The logits (n, classes) in an EvalPrediction or in the result of `predict`.

    Raises:
        ValueError: the model's first output has another shape.
    """
    logits = evaluated.predictions
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits)
    if logits.ndim != 2:
        raise ValueError(
            f"logits have the shape {logits.shape}, but must have (samples, classes): give a model "
            "for classification"
        )
    return logits


def evaluate_splits(trainer: Trainer, datasets: dict[str, Dataset]) -> dict[str, dict[str, float]]:
    """Evaluates each split with `trainer.evaluate`: loss, number of samples, and the trainer's
    metrics.

    Every process has to call it, and gets the same numbers. The trainer also logs them as
    eval_<split>_<metric>.

    Returns:
        {"forget": {"samples": n, "loss": ..., "wer": ..., "wer_low": ..., "wer_high": ..., "cer":
        ...}, ...}

    Raises:
        ValueError: a split has no samples.
    """
    # Streamed splits have no length.
    sizes = {
        name: len(dataset) for name, dataset in datasets.items() if hasattr(dataset, "__len__")
    }
    for name, size in sizes.items():
        if size == 0:
            raise ValueError(
                f"split {name!r} has no samples to evaluate: leave it out, or select more samples"
            )
    quiet = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
    results, bar = {}, tqdm(datasets.items(), disable=quiet, unit="split")
    for name, dataset in bar:
        bar.set_description(f"evaluating {name} ({sizes.get(name, '?')} samples)")
        prefix = f"eval_{name}_"
        values = trainer.evaluate(dataset, metric_key_prefix=prefix.removesuffix("_"))
        values = {
            key.removeprefix(prefix): value
            for key, value in values.items()
            if key.startswith(prefix)
        }
        metrics = {key: float(value) for key, value in values.items() if is_metric(key, value, ())}
        results[name] = ({"samples": sizes[name]} if name in sizes else {}) | metrics
    return results


def sample_features(trainer: Trainer, dataset: Dataset) -> dict[str, np.ndarray]:
    """The features of each sample that membership attacks use (`metrics.sample_features.features`),
    computed by the trainer's own evaluation.

    No texts are generated: the decoder gets the true texts, as in training. Every process has to
    call it, and gets the arrays of all samples, in the order of the dataset. A CTC model, whose
    logits belong to frames and not to labels, gives the loss alone, and is evaluated in batches of
    one, so that no frame is padding.

    Raises:
        ValueError: the model's first output is not one row of logits for each label: (n, classes)
            for labels (n,), or (n, T, vocabulary) for labels (n, T).
    """
    is_ctc, reduce = _is_ctc(trainer), features_reducer(trainer, one_by_one=True)

    def reduced(logits: torch.Tensor | tuple, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = logits[0] if isinstance(logits, tuple) else logits
        if (features := reduce(logits, labels)) is None:
            raise ValueError(
                f"logits of shape {tuple(logits.shape)} do not match labels of shape "
                f"{tuple(labels.shape)} one to one: use a model with one row of logits for each "
                "label"
            )
        return features

    size = {"per_device_eval_batch_size": 1} if is_ctc else {}
    with (
        replaced(trainer.args, predict_with_generate=False, **size),
        replaced(trainer, compute_metrics=None, preprocess_logits_for_metrics=reduced),
    ):
        # The dict that `reduced` makes of each batch.
        return cast("dict[str, np.ndarray]", trainer.predict(dataset).predictions)


def features_reducer(trainer: Trainer, *, one_by_one: bool | None = None) -> Callable:
    """The function that computes the features of each sample of a batch from (logits, labels), for
    `collecting_logits`. It gives None where the logits do not show them.

    Args:
        one_by_one: whether the batches have one sample each; default: as the trainer evaluates.
            Only then do the logits of a CTC model show its losses.
    """
    if not _is_ctc(trainer):
        return features_of_batch
    one_by_one = trainer.args.eval_batch_size == 1 if one_by_one is None else one_by_one
    blank = base_model(trainer.model).config.pad_token_id

    def reduce(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor] | None:
        return {"loss": ctc_losses(logits, labels, blank)} if one_by_one else None

    return reduce


def _is_ctc(trainer: Trainer) -> bool:
    return type(base_model(trainer.model)).__name__.endswith("ForCTC")


def features_of_batch(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """The features of each sample of a batch (`metrics.sample_features.features`), in float32; None
    if there is not one row of logits for each label."""
    if logits.shape[:-1] != labels.shape:
        return None
    values_by_name = features(logits.float().cpu().numpy(), labels.cpu().numpy())
    return {
        name: torch.tensor(values, dtype=torch.float32, device=logits.device)
        for name, values in values_by_name.items()
    }
