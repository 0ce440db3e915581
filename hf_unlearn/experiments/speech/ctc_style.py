"""Writes the labels of a CTC model: as written, in the letters of its tokenizer, or as the model
itself transcribes."""

import datasets
import numpy as np
import torch

from ...data.speech.labels import label_ids
from ...data.speech.transcripts import in_vocabulary
from ...metrics.sample_features import ctc_losses
from ...metrics.token_texts import transcribe
from .label_style import LabelStyle
from .model_transcriber import ModelTranscriber


class CtcStyle(LabelStyle):
    """Writes labels in the style `data.transcripts`: "as_written"; "vocabulary", in the letters of
    the tokenizer; or "own", what the model says, if it agrees with the transcript or there is no
    transcript, otherwise as "vocabulary".

    Args:
        transcriber: the model that writes labels in its "own" style; None for the other styles,
            which need no model.

    Attributes:
        counts: as in `LabelStyle`; or the number of texts that "vocabulary" has "rewritten".

    Raises:
        ValueError: there is no such style, or "own" without a model.
    """

    plain = "vocabulary"
    compared = ("vocabulary", "own")
    unsupported_style = "sentence"
    unsupported_reason = (
        "it is for models with a decoder: a CTC model takes vocabulary, own or as_written"
    )

    def __call__(self, rows: datasets.Dataset) -> list[str]:
        texts = super().__call__(rows)
        if self.name == self.plain:
            written = rows["text"][:]
            self.counts["rewritten"] += sum(
                transcript != text for transcript, text in zip(texts, written)
            )
        return texts

    def rewritten(self, references: list[str]) -> list[str]:
        return [in_vocabulary(text, self.processor.tokenizer) for text in references]


class CtcTranscriber(ModelTranscriber):
    """Transcribes utterances with a CTC model."""

    def settings(self) -> dict:
        return {"vocabulary": self.processor.tokenizer.get_vocab()}

    def generate(self, inputs_of_each: list[dict[str, np.ndarray]]) -> list[str]:
        # One by one: a CTC model may say something in padded frames.
        frames = [self._logits(inputs).argmax(-1).cpu().numpy() for inputs in inputs_of_each]
        return [transcribe(self.processor.tokenizer, ids, ctc=True)[0] for ids in frames]

    def losses_of(self, inputs: dict[str, np.ndarray], texts: list[str]) -> list[float]:
        logits, blank = self._logits(inputs), self.model.config.pad_token_id
        labels = label_ids(texts, self.processor.tokenizer)
        return [
            ctc_losses(logits, torch.tensor([ids], device=logits.device), blank).item()
            for ids in labels
        ]

    @torch.no_grad()
    def _logits(self, inputs: dict[str, np.ndarray]) -> torch.Tensor:
        """(1, frames, vocabulary)."""
        return self.model(**self.batch([inputs])).logits
