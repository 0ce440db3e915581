"""Writes labels in the style of the model that is to forget: as written, as sentences, or as the
model itself transcribes."""

from collections import Counter

import datasets
import torch
from transformers import ProcessorMixin
from transformers.utils import logging

from ...data.sampling import balanced
from ...data.speech.speech_arguments import SpeechArguments
from ...data.speech.transcripts import as_sentence, own_or
from ...metrics.normalizers import normalizer
from .model_transcriber import ModelTranscriber

logger = logging.get_logger(__name__)

# The number of utterances on which the styles are compared.
SAMPLES = 10


class LabelStyle:
    """Writes the labels of a model with a decoder in the style `data.transcripts`: "as_written",
    "sentence" or "own". Where that is None, `choose` chooses the style.

    Args:
        transcriber: the model that is to forget; None for a new model, which has no style yet.

    Attributes:
        name: of the style; None until `choose` has chosen it.
        losses: {style: the model's mean loss}, once `choose` has compared the styles.
        counts: the numbers of labels that are the model's "own" or a "sentence", and of utterances
            with "no transcript".
        plain: the style of labels where the model's own transcript is wrong.
        compared: the styles whose losses are compared.

    Raises:
        ValueError: a new model is asked for its own transcripts, or the style is one of CTC models.
    """

    plain = "sentence"
    compared = ("as_written", "sentence", "own")
    unsupported_style = "vocabulary"
    unsupported_reason = "it is for CTC models: leave it out"

    def __init__(
        self,
        transcriber: ModelTranscriber | None,
        processor: ProcessorMixin,
        data: SpeechArguments,
    ):
        self.transcriber, self.processor = transcriber, processor
        self.name, self.losses, self.counts = data.transcripts, {}, Counter()
        if self.name == self.unsupported_style:
            raise ValueError(f"transcripts is {self.name}, but {self.unsupported_reason}")
        if self.name == "own" and transcriber is None:
            raise ValueError(
                "transcripts is own, but a new model cannot transcribe yet: set it to as_written "
                f"or {self.plain}"
            )
        kind, self._clean, unspaced = normalizer(True, data.language, processor.tokenizer)
        self._language = {"spaced": not unspaced, "english": kind == "english"}

    def choose(self, rows: datasets.Dataset, seed: int = 0) -> None:
        """Computes the model's mean loss with each style, on at most `SAMPLES` rows that have
        transcripts. If no style is given, it becomes "as_written" for a new model, or if the
        model finds the data's transcripts at least as likely as sentences; otherwise "own".
        """
        if self.transcriber is not None:
            written = [index for index, text in enumerate(rows["text"][:]) if text.strip()]
            if written:
                chosen = balanced(rows.select(written), "speaker", SAMPLES, seed)
                styles = {style: self.written(chosen, style) for style in self.compared}
                self.losses = self.transcriber.mean_losses(chosen, styles)
        if self.name is None:
            unlikely = self.losses.get("as_written", torch.inf) > self.losses.get("sentence", 0)
            uses_own = self.transcriber is not None and unlikely
            self.name = "own" if uses_own else "as_written"

    def __call__(self, rows: datasets.Dataset) -> list[str]:
        """The texts of the rows' labels."""
        if self.name == "own":
            missing = sum(not text.strip() for text in rows["text"][:])
            if missing:
                self.counts["no transcript"] += missing
                logger.warning(
                    f"{missing} of {len(rows)} utterances have no transcript: the model's own "
                    "transcript becomes their label and their reference."
                )
        texts = self.written(rows, self.name)
        transcripts = self.transcriber.transcripts(rows) if self.name == "own" else []
        matches = sum(text == other for text, other in zip(texts, transcripts))
        self.counts.update(
            {"own": matches, self.plain: len(texts) - matches} if transcripts else {}
        )
        return texts

    def written(self, rows: datasets.Dataset, style: str) -> list[str]:
        """The rows' transcripts in a style: "as_written", `plain` or "own"."""
        references = rows["text"][:]
        if style == "as_written":
            return references
        plain = self.rewritten(references)
        if style == self.plain:
            return plain
        candidates = zip(self.transcriber.transcripts(rows), references, plain)
        return [own_or(*texts, self._agree) for texts in candidates]

    def rewritten(self, references: list[str]) -> list[str]:
        """The references in the style `plain`."""
        return [as_sentence(text, **self._language) for text in references]

    def release(self) -> None:
        """Drops the model, to free its memory."""
        if self.transcriber is not None:
            self.transcriber.release()

    def _agree(self, transcript: str, reference: str) -> bool:
        return self._clean(transcript).split() == self._clean(reference).split()
