"""Measures a model on single samples: transcripts and their errors, classes, losses and gradients.
Works with any form of a model, also quantised ones."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from ...data.speech.collator import SpeechCollator
from ...data.speech.extractors import extract
from ...data.speech.transcripts import in_vocabulary
from ...metrics import character_errors, word_errors
from ...metrics.membership import features
from ...metrics.normalizers import normalizer
from ...metrics.sample_features import ctc_losses, predicted_classes
from ...metrics.token_texts import transcribe
from ...report.tasks import TASKS
from ..recipe import Recipe
from .gaps import Finding, rate

if TYPE_CHECKING:
    from ..speech.recogniser import RecogniserRecipe

# The options of decoding that belong to the generation configuration.
GENERATION_SETTINGS = {"num_beams", "language", "task"}


class Examiner:
    """Base of the examiners of speech and of images.

    Args:
        recipe: of the run.
        model: one of its models, for the form of the data.
        max_samples: of each split.

    Attributes:
        splits: the evaluated splits by name.
        judged_split: the split by which forgetting is judged: `forget_test`, which has unseen
            samples like the forgotten ones; `forget` where there is none, or where
            `choose_judged_split` finds more to forget there.
    """

    unit: str
    direction: str

    def __init__(self, recipe: Recipe, model: PreTrainedModel, max_samples: int):
        self.recipe, self.batch_size = recipe, recipe.args.per_device_eval_batch_size
        self.collate = recipe.collator(model)
        limit = min(max_samples, recipe.data.max_eval_samples or max_samples)
        self.splits: dict[str, Dataset] = recipe.splits.evaluation(limit)
        self.judged_split = "forget_test" if "forget_test" in self.splits else "forget"
        self.group = TASKS[recipe.task].group

    def judging_by(self, split: str) -> "Examiner":
        """This examiner with another `judged_split`."""
        other = copy.copy(self)
        other.judged_split = split
        return other

    def recognition(self, model: nn.Module, rows: Dataset | None = None, **options: Any) -> Finding:
        """How well a model recognises rows; by default those of `judged_split`."""
        rows = self.splits[self.judged_split] if rows is None else rows
        return rate(*self.counts(model, rows, **options), self.unit, self.direction)

    def recognition_and_loss(self, model: nn.Module, rows: Dataset | None = None) -> Finding:
        """`recognition` with the mean loss of the rows in `more`: it shows changes that are too
        small to change a word."""
        rows = self.splits[self.judged_split] if rows is None else rows
        finding = self.recognition(model, rows)
        finding.more["loss"] = float(self.features(model, rows)["loss"].mean())
        return finding

    def counts(
        self, model: nn.Module, rows: Dataset, **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Per row (n,): errors and words of speech, or whether it was recognised and 1."""
        raise NotImplementedError

    def errors_of(self, model: nn.Module, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Per row (n,): its errors, and how many it could have."""
        counts, totals = self.counts(model, rows)
        return (totals - counts if self.direction == "high" else counts), totals

    def samples(self, model: PreTrainedModel, rows: Dataset) -> Sequence[dict]:
        """The rows in the form that the model takes."""
        # Evaluation data has a length and indices, as evaluation needs.
        return cast("Sequence[dict]", self.recipe.evaluation_data(model, rows))

    def batches(self, model: nn.Module, rows: Dataset, size: int | None = None) -> Iterator[dict]:
        """Batches on the model's device, in its floating point type."""
        yield from self.batches_of(self.samples(model, rows), model, size)

    def batches_of(
        self, samples: Sequence[dict], model: nn.Module, size: int | None = None
    ) -> Iterator[dict]:
        """Batches of samples that are in the model's form already."""
        size = size or self.batch_size
        for start in range(0, len(samples), size):
            indices = range(start, min(start + size, len(samples)))
            yield placed(self.collate([samples[index] for index in indices]), model)

    def loss(self, model: nn.Module, batch: dict) -> torch.Tensor:
        """The mean loss of a batch, with its gradient."""
        return model(**batch)["loss"]

    @torch.no_grad()
    def features(self, model: nn.Module, rows: Dataset) -> dict[str, np.ndarray]:
        """The features of each row that attacks use (`metrics.sample_features.features`)."""
        model.eval()
        parts = [
            features(model(**batch)["logits"].float().cpu().numpy(), batch["labels"].cpu().numpy())
            for batch in self.batches(model, rows)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def gradient_norms(self, model: nn.Module, rows: Dataset) -> np.ndarray:
        """The length (n,) of the gradient of each row's loss with respect to all weights."""
        model.eval().requires_grad_(True)
        norms = []
        for batch in self.batches(model, rows, size=1):
            model.zero_grad()
            self.loss(model, batch).backward()
            squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
            norms.append(float(torch.stack(squares).sum().sqrt()))
        model.zero_grad()
        return np.array(norms)


class SpeechExaminer(Examiner):
    """Examines a recogniser that generates its texts, such as Whisper, by the errors of its
    transcripts. The error rate is that of the run: of words, or of characters for languages without
    spaces between words."""

    direction = "low"
    recipe: "RecogniserRecipe"

    def __init__(self, recipe: "RecogniserRecipe", model: PreTrainedModel, max_samples: int):
        super().__init__(recipe, model, max_samples)
        options, tokenizer = recipe.options, recipe.processor.tokenizer
        self.normalise = normalizer(options.normalize, recipe.data.language, tokenizer).clean
        self.rate_name = recipe.metrics().scoring["leads"]
        self.unit = f"{self.rate_name.upper()} (%)"

    def texts(self, rows: Dataset) -> list[str]:
        """The texts that transcripts of the rows are compared with."""
        return rows["text"][:]

    def counts(
        self, model: nn.Module, rows: Dataset, **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.errors(self.transcripts(model, rows, **options), self.texts(rows))

    def errors(self, transcripts: list[str], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Errors (n,) and words (or characters) (n,) of transcripts, both normalised first."""
        transcripts, texts = (
            [self.normalise(text) for text in part] for part in (transcripts, texts)
        )
        count = character_errors if self.rate_name == "cer" else word_errors
        return count(transcripts, texts, allow_empty=True)

    def transcripts(self, model: nn.Module, rows: Dataset, **options: Any) -> list[str]:
        """What the model says, decoded greedily unless `options` say otherwise.

        Args:
            options: as for `transcribe`.
        """
        batches = self.batches(model, rows)
        return [text for batch in batches for text in self.transcribe(model, batch, options)]

    @torch.no_grad()
    def transcribe(self, model: nn.Module, batch: dict, options: dict) -> list[str]:
        """The transcripts of a batch.

        Args:
            options: of `generate`; those in GENERATION_SETTINGS may be None, to unset them.
        """
        model.eval()
        with generation_options(model, options) as rest:
            ids = model.generate(**without_labels(batch), **rest)
            start = model.generation_config.decoder_start_token_id
        tokenizer = self.recipe.processor.tokenizer
        return [
            tokenizer.decode(without_prompt(start, row), skip_special_tokens=True) for row in ids
        ]

    def inputs_of(self, model: nn.Module, waveform: np.ndarray) -> dict[str, torch.Tensor]:
        """The model's inputs for one waveform (samples,), as a batch."""
        processor = self.recipe.processor
        inputs = extract(processor.feature_extractor, waveform)
        return placed(SpeechCollator(processor)([inputs]), model)


class CtcExaminer(SpeechExaminer):
    """Examines a CTC recogniser: its transcripts are the most likely tokens of its frames."""

    def texts(self, rows: Dataset) -> list[str]:
        texts, tokenizer = rows["text"][:], self.recipe.processor.tokenizer
        as_written = self.recipe.data.transcripts == "as_written"
        return texts if as_written else [in_vocabulary(text, tokenizer) for text in texts]

    @torch.no_grad()
    def transcribe(self, model: nn.Module, batch: dict, options: dict) -> list[str]:
        """The transcripts of a batch.

        Args:
            options: `blank_penalty`, which is subtracted from the blank's logits.
        """
        logits = model.eval()(**without_labels(batch))["logits"].float()
        logits[..., model.config.pad_token_id] -= options.get("blank_penalty", 0.0)
        return transcribe(self.recipe.processor.tokenizer, logits.cpu().numpy(), ctc=True)

    @torch.no_grad()
    def features(self, model: nn.Module, rows: Dataset) -> dict[str, np.ndarray]:
        """The loss of each row. Its logits belong to frames, so they say nothing of labels."""
        blank, losses = model.eval().config.pad_token_id, []
        # one by one, so that no frame is padding
        for batch in self.batches(model, rows, size=1):
            logits = model(**without_labels(batch))["logits"]
            losses.append(ctc_losses(logits, batch["labels"], blank).cpu().numpy())
        return {"loss": np.concatenate(losses)}

    def loss(self, model: nn.Module, batch: dict) -> torch.Tensor:
        """The mean loss of the labels: some models are configured to return their sum."""
        loss = model(**batch)["loss"]
        labels = (batch["labels"] >= 0).sum()
        return loss / labels if model.config.ctc_loss_reduction == "sum" else loss


def without_labels(batch: dict) -> dict:
    return {name: value for name, value in batch.items() if name != "labels"}


@contextlib.contextmanager
def generation_options(model: PreTrainedModel, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Gives a model a generation configuration with greedy decoding and some options; restores its
    own at the end. Yields the other options.

    The configuration is not an argument of `generate`, which would fill in the model's own language
    where None is given.
    """
    before = model.generation_config
    config = copy.deepcopy(before)
    config.num_beams, config.do_sample = 1, False
    for name in GENERATION_SETTINGS & set(options):
        setattr(config, name, options[name])
    model.generation_config = config
    try:
        yield {name: value for name, value in options.items() if name not in GENERATION_SETTINGS}
    finally:
        model.generation_config = before


def without_prompt(start: int | None, ids: torch.Tensor) -> list[int]:
    """Token ids after the last start token: without a prompt of earlier words."""
    tokens: list[int] = ids.tolist()
    return tokens[len(tokens) - tokens[::-1].index(start) :] if start in tokens else tokens


class ClassExaminer(Examiner):
    """Examines a classifier of images or of speech by its accuracy."""

    unit, direction = "accuracy (%)", "high"

    @torch.no_grad()
    def counts(
        self, model: nn.Module, rows: Dataset, **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        model.eval()
        right = [
            predicted_classes(model(**batch)["logits"].float().cpu().numpy())
            == batch["labels"].cpu().numpy()
            for batch in self.batches(model, rows)
        ]
        recognised = np.concatenate(right).astype(float)
        return recognised, np.ones(len(recognised))


def placed(batch: dict, model: nn.Module) -> dict[str, torch.Tensor]:
    """A batch on a model's device, in its floating point type."""
    device, dtype = device_and_dtype(model)
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        for name, value in batch.items()
    }


def examiner_of(recipe: Recipe, model: PreTrainedModel, max_samples: int) -> Examiner:
    """The examiner of a recipe's models."""
    if recipe.task != "speakers":
        return ClassExaminer(recipe, model, max_samples)
    recogniser = cast("RecogniserRecipe", recipe)
    kind = SpeechExaminer if recogniser.generates else CtcExaminer
    return kind(recogniser, model, max_samples)


def device_and_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and the floating point type of a model, by its first floating point weight. A
    quantised model may have none; it runs on the CPU in float32."""
    weights = (p for p in model.parameters() if p.is_floating_point())
    weight = next(weights, torch.zeros(0))
    return weight.device, weight.dtype
