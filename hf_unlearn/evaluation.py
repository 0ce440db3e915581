"""WER, CER, accuracy and loss of every split, measured by the trainer's own evaluation, so in one
process or many."""

import inspect
import itertools
from collections.abc import Callable, Mapping, MutableSequence

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from .metrics.normalizers import UNSPACED, language_code, normalizer
from .metrics.privacy import features
from .metrics.quality import CharacterErrorRate, WordErrorRate, accuracy
from .metrics.scales import in_percent
from .per_sample.inputs import own_copy
from .report.tasks import is_metric

IGNORED = -100  # the label that losses skip, and Trainer's padding between batches and processes


def asr_metrics(
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    *,
    normalize: bool | str | Callable[[str], str] = True,
    language: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    texts: MutableSequence | None = None,
    references: Mapping[str, str] | None = None,
) -> Callable[[object], dict[str, float]]:
    """A `compute_metrics` for speech recognition: by `generate` (predict_with_generate=True), or of
    CTC models.

    Args:
        processor: a processor or its tokenizer; decodes generated ids and labels, special tokens
            dropped.
        normalize: "english" for Whisper's English normaliser; "basic" for lower case without
            punctuation, as other languages need it; "none" for the texts as they are; or a function
            of a text. True chooses between the first two by the language, False is "none". The
            English normaliser writes numbers in digits and joins spoken ones ("one two three" is
            the one word "123"), so connected digits need False.
        language: code or English name; default: the tokenizer's. Where it has none, the letters of
            its vocabulary tell English from others.
        texts: gets (predictions, references) of every evaluation appended, two lists of normalised
            texts.
        resamples, seed: of the 95 % bootstrap intervals over utterances; resamples=0 leaves them
            out.
        references: the true text of a label's text, where a label is written in another way.

    Returns:
        function of an EvalPrediction -> {"wer", "wer_low", "wer_high", "cer", "cer_low",
        "cer_high"}, in percent. A reference that normalisation leaves empty ("um") adds no words,
        and what is predicted for it counts as inserted. Its attribute `scoring` says {"normalizer":
        name, "leads": the rate that the language is judged by}, which is "cer" where words are
        written without spaces. The function raises ValueError when it gets logits that are not a
        CTC model's, or no reference has a word.
    """
    tokenizer = processor.tokenizer if isinstance(processor, ProcessorMixin) else processor
    name, clean = normalizer(normalize, language, tokenizer)
    metrics = [WordErrorRate(), CharacterErrorRate()]

    def compute_metrics(evaluated):
        predictions, truth = evaluated.predictions, _decode(tokenizer, evaluated.label_ids)
        if isinstance(predictions, tuple):
            predictions = predictions[0]
        truth = [(references or {}).get(text, text) for text in truth]
        predictions, truth = (
            [clean(text) for text in part] for part in (_heard(tokenizer, predictions), truth)
        )
        if texts is not None:
            texts.append((predictions, truth))
        options = {"allow_empty": True, "resamples": resamples, "seed": seed}
        rates = [
            metric.compute(predictions=predictions, references=truth, **options)
            for metric in metrics
        ]
        return rates[0] | rates[1]

    ends = ("", "_low", "_high") if resamples else ("",)
    # for stopping rules
    compute_metrics.metric_names = [name + end for name in ("wer", "cer") for end in ends]
    spoken = language_code(language or getattr(tokenizer, "language", None))
    compute_metrics.scoring = {"normalizer": name, "leads": "cer" if spoken in UNSPACED else "wer"}
    return in_percent(compute_metrics)


def _heard(tokenizer, predictions) -> list[str]:
    """Texts of generated ids (n, T), or of a CTC model's ids (n, frames) or logits (n, frames,
    vocabulary)."""
    predictions = np.asarray(predictions)
    # that of a CTC tokenizer has it
    if "group_tokens" not in inspect.signature(tokenizer._decode).parameters:
        return _decode(tokenizer, predictions)
    if predictions.ndim == 3:
        padding = (predictions == IGNORED).all(-1)  # Trainer's
        predictions = np.where(padding, IGNORED, predictions.argmax(-1))
    # Repeats are merged first: the blank that is dropped afterwards keeps "hello" from becoming
    # "helo".
    merged = [[token for token, _ in itertools.groupby(row)] for row in predictions.tolist()]
    return [_text(tokenizer, row) for row in merged]


def _decode(tokenizer, ids) -> list[str]:
    """Texts of (n, T) token ids; -100 is padding."""
    ids = np.asarray(ids)
    if ids.ndim != 2:
        raise ValueError(
            f"Token ids of shape (utterances, tokens) are needed, got {ids.shape}: scores instead "
            "of generated ids? "
            "Set predict_with_generate=True."
        )
    return [_text(tokenizer, row) for row in ids.tolist()]


def _text(tokenizer, ids: list[int]) -> str:
    ctc = (
        {"group_tokens": False}
        if "group_tokens" in inspect.signature(tokenizer._decode).parameters
        else {}
    )
    return tokenizer.decode(
        [token for token in ids if token != IGNORED], skip_special_tokens=True, **ctc
    )


@in_percent
def classification_metrics(evaluated) -> dict[str, float]:
    """A `compute_metrics` for classification: {"accuracy", "accuracy_low", "accuracy_high"}, in
    percent.

    Raises:
        ValueError: the model's first output are no logits (n, classes).
    """
    return accuracy(logits_of(evaluated).argmax(1), evaluated.label_ids)


# for stopping rules
classification_metrics.metric_names = ["accuracy", "accuracy_low", "accuracy_high"]


def logits_of(evaluated) -> np.ndarray:
    """The logits (n, classes) among what `predict` or an EvalPrediction holds."""
    logits = evaluated.predictions
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits)
    if logits.ndim != 2:
        raise ValueError(
            f"Logits of shape (samples, classes) are needed, got {logits.shape}: is "
            "this a classifier?"
        )
    return logits


def evaluate_splits(trainer, datasets: dict) -> dict[str, dict[str, float]]:
    """What `trainer.evaluate` says of each split, under the split's name: loss, samples and the
    trainer's metrics.

    Every process has to call it, and gets the same numbers. The trainer also logs them, as
    eval_<split>_<metric>.

    Returns:
        {"forget": {"samples": n, "loss": ..., "wer": ..., "wer_low": ..., "wer_high": ..., "cer":
        ...}, ...}

    Raises:
        ValueError: a split without samples.
    """
    # no stream's
    sizes = {
        name: len(dataset) for name, dataset in datasets.items() if hasattr(dataset, "__len__")
    }
    for name, size in sizes.items():
        if size == 0:
            raise ValueError(
                f"Split {name!r} has no samples to evaluate: leave it out, or widen its choice."
            )
    quiet = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
    results, bar = {}, tqdm(datasets.items(), disable=quiet, unit="split")
    for name, dataset in bar:
        bar.set_description(f"evaluating {name} ({sizes.get(name, '?')} samples)")
        prefix = f"eval_{name}_"
        metrics = trainer.evaluate(dataset, metric_key_prefix=prefix.removesuffix("_"))
        metrics = {
            key.removeprefix(prefix): value
            for key, value in metrics.items()
            if key.startswith(prefix)
        }
        kept = {key: float(value) for key, value in metrics.items() if is_metric(key, value, ())}
        results[name] = ({"samples": sizes[name]} if name in sizes else {}) | kept
    return results


def sample_features(trainer, dataset) -> dict[str, np.ndarray]:
    """What membership attacks see of each sample (`metrics.privacy.features`), by the trainer's own
    evaluation.

    Texts are not generated: the model is given the true ones, as in training. Every process has to
    call it, and gets the arrays of all samples, in the order of the dataset.

    Raises:
        ValueError: the model's first output are no logits of its labels: (n, classes), or (n, T,
            vocabulary) where the labels are (n, T), as classifiers and encoder-decoder models have
            them.
    """

    def reduced(logits, labels):
        logits = logits[0] if isinstance(logits, tuple) else logits
        if logits.shape[:-1] != labels.shape:
            raise ValueError(
                f"Logits {tuple(logits.shape)} do not belong to labels "
                f"{tuple(labels.shape)} one by one."
            )
        found = features(logits.float().cpu().numpy(), labels.cpu().numpy())
        return {
            name: torch.tensor(values, dtype=torch.float32, device=logits.device)
            for name, values in found.items()
        }

    kept = (
        trainer.args.predict_with_generate,
        trainer.compute_metrics,
        trainer.preprocess_logits_for_metrics,
    )
    trainer.args.predict_with_generate, trainer.compute_metrics = False, None
    trainer.preprocess_logits_for_metrics = reduced
    try:
        return trainer.predict(dataset).predictions
    finally:
        (
            trainer.args.predict_with_generate,
            trainer.compute_metrics,
            trainer.preprocess_logits_for_metrics,
        ) = kept


def relearning_steps(
    model: nn.Module, batch: dict, *, learning_rate: float, max_steps: int, accuracy: float = 100.0
) -> int | None:
    """Steps of fine-tuning on a few forgotten samples until the model reads them again; few: little
    was forgotten.

    The retrained model's number is the target: it has to learn the samples anew. AdamW on all
    parameters; layers of the BatchNorm family keep their running statistics.

    Args:
        model: a classifier with loss and logits; it is changed, so give a copy.
        batch: the samples, with labels (n,).
        accuracy: percent of the batch that counts as read again.

    Returns:
        the number of steps, 0 if nothing has to be learned; None where `max_steps` do not suffice.
    """
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    model.eval()  # no dropout, so that the number of steps depends on the model alone
    for step in range(max_steps + 1):
        output = model(**own_copy(batch))
        right = (
            int((output["logits"].argmax(-1) == batch["labels"]).sum()) / batch["labels"].numel()
        )
        if 100 * right >= accuracy:
            return step
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
    return None
