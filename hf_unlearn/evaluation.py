"""WER, CER, accuracy and loss of every split, measured by the trainer's own evaluation, so in one process or many."""

from collections.abc import Callable, MutableSequence

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, ProcessorMixin, WhisperTokenizer
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from .metrics.privacy import features
from .metrics.quality import CharacterErrorRate, WordErrorRate, accuracy
from .scales import in_percent
from .tasks import is_metric

IGNORED = -100  # the label that losses skip, and Trainer's padding between batches and processes


def asr_metrics(
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    *,
    normalize: bool | Callable[[str], str] = True,
    resamples: int = 1000,
    seed: int = 0,
    texts: MutableSequence | None = None,
) -> Callable[[object], dict[str, float]]:
    """A `compute_metrics` for speech recognition by `generate` (predict_with_generate=True).

    Args:
        processor: a processor or its tokenizer; decodes generated ids and labels, special tokens dropped.
        normalize: True for Whisper's English normaliser, False for the texts as they are, or a function of a text.
            The English normaliser writes numbers in digits and joins spoken ones ("one two three" is the one word
            "123"), so connected digits need False. Other languages: BasicTextNormalizer.
        texts: gets (predictions, references) of every evaluation appended, two lists of normalised texts.
        resamples, seed: of the 95 % bootstrap intervals over utterances; resamples=0 leaves them out.

    Returns:
        function of an EvalPrediction -> {"wer", "wer_low", "wer_high", "cer", "cer_low", "cer_high"}, in percent. A
        reference that normalisation leaves empty ("um") adds no words, and what is predicted for it counts as
        inserted. The function raises ValueError when it gets logits, or no reference has a word.
    """
    tokenizer = processor.tokenizer if isinstance(processor, ProcessorMixin) else processor
    clean = _normalizer(tokenizer) if normalize is True else normalize or str.strip
    metrics = [WordErrorRate(), CharacterErrorRate()]

    def compute_metrics(evaluated):
        predictions, references = evaluated.predictions, evaluated.label_ids
        if isinstance(predictions, tuple):
            predictions = predictions[0]
        predictions, references = (
            [clean(text) for text in _decode(tokenizer, ids)] for ids in (predictions, references)
        )
        if texts is not None:
            texts.append((predictions, references))
        options = {"allow_empty": True, "resamples": resamples, "seed": seed}
        rates = [metric.compute(predictions=predictions, references=references, **options) for metric in metrics]
        return rates[0] | rates[1]

    return in_percent(compute_metrics)


def _normalizer(tokenizer):
    """Whisper's English normaliser with the tokenizer's own spelling map (colour -> color) where it has one."""
    spelling = tokenizer.english_spelling_normalizer if isinstance(tokenizer, WhisperTokenizer) else None
    return EnglishTextNormalizer(spelling or {})


def _decode(tokenizer, ids):
    """Texts of (n, T) token ids; -100 is padding."""
    ids = np.asarray(ids)
    if ids.ndim != 2:
        raise ValueError(
            f"Token ids of shape (utterances, tokens) are needed, got {ids.shape}: scores instead of generated ids? "
            "Set predict_with_generate=True."
        )
    return tokenizer.batch_decode([row[row != IGNORED].tolist() for row in ids], skip_special_tokens=True)


@in_percent
def classification_metrics(evaluated) -> dict[str, float]:
    """A `compute_metrics` for classification: {"accuracy", "accuracy_low", "accuracy_high"}, in percent.

    Raises:
        ValueError: the model's first output are no logits (n, classes).
    """
    return accuracy(logits_of(evaluated).argmax(1), evaluated.label_ids)


def logits_of(evaluated) -> np.ndarray:
    """The logits (n, classes) among what `predict` or an EvalPrediction holds."""
    logits = evaluated.predictions
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits)
    if logits.ndim != 2:
        raise ValueError(f"Logits of shape (samples, classes) are needed, got {logits.shape}: is this a classifier?")
    return logits


def evaluate_splits(trainer, datasets: dict) -> dict[str, dict[str, float]]:
    """What `trainer.evaluate` says of each split, under the split's name: loss, samples and the trainer's metrics.

    Every process has to call it, and gets the same numbers. The trainer also logs them, as eval_<split>_<metric>.

    Returns:
        {"forget": {"samples": n, "loss": ..., "wer": ..., "wer_low": ..., "wer_high": ..., "cer": ...}, ...}

    Raises:
        ValueError: a split without samples.
    """
    for name, dataset in datasets.items():
        if len(dataset) == 0:
            raise ValueError(f"Split {name!r} has no samples to evaluate: leave it out, or widen its choice.")
    quiet = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
    results, bar = {}, tqdm(datasets.items(), disable=quiet, unit="split")
    for name, dataset in bar:
        bar.set_description(f"evaluating {name} ({len(dataset)} samples)")
        prefix = f"eval_{name}_"
        metrics = trainer.evaluate(dataset, metric_key_prefix=prefix.removesuffix("_"))
        metrics = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
        kept = {key: float(value) for key, value in metrics.items() if is_metric(key, value, ())}
        results[name] = {"samples": len(dataset)} | kept
    return results


def sample_features(trainer, dataset) -> dict[str, np.ndarray]:
    """What membership attacks see of each sample (`metrics.privacy.features`), by the trainer's own evaluation.

    Texts are not generated: the model is given the true ones, as in training. Every process has to call it, and gets
    the arrays of all samples, in the order of the dataset.

    Raises:
        ValueError: the model's first output are no logits of its labels: (n, classes), or (n, T, vocabulary) where the
            labels are (n, T), as classifiers and encoder-decoder models have them.
    """

    def reduced(logits, labels):
        logits = logits[0] if isinstance(logits, tuple) else logits
        if logits.shape[:-1] != labels.shape:
            raise ValueError(f"Logits {tuple(logits.shape)} do not belong to labels {tuple(labels.shape)} one by one.")
        found = features(logits.float().cpu().numpy(), labels.cpu().numpy())
        return {
            name: torch.tensor(values, dtype=torch.float32, device=logits.device) for name, values in found.items()
        }

    kept = trainer.args.predict_with_generate, trainer.compute_metrics, trainer.preprocess_logits_for_metrics
    trainer.args.predict_with_generate, trainer.compute_metrics = False, None
    trainer.preprocess_logits_for_metrics = reduced
    try:
        return trainer.predict(dataset).predictions
    finally:
        trainer.args.predict_with_generate, trainer.compute_metrics, trainer.preprocess_logits_for_metrics = kept


def relearning_steps(
    model: nn.Module, batch: dict, *, learning_rate: float, max_steps: int, accuracy: float = 100.0
) -> int | None:
    """Steps of fine-tuning on a few forgotten samples until the model reads them again; few: little was forgotten.

    The retrained model's number is the target: it has to learn the samples anew. AdamW on all parameters; layers of
    the BatchNorm family keep their running statistics.

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
        output = model(**batch)
        right = (output["logits"].argmax(-1) == batch["labels"]).double().mean().item()
        if 100 * right >= accuracy:
            return step
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
    return None
