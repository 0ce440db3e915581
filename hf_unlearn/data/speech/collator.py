"""Batches prepared utterances for any Trainer, as the model's own processor pads them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import ProcessorMixin, SequenceFeatureExtractor

from .extractors import audio_extractor, input_names


@dataclass
class SpeechCollator:
    """Batches rows of `prepare` for any Trainer.

    The inputs are those of the model's own processor: input_features or input_values, with
    attention_mask if its feature extractor returns one. They are padded by the feature extractor's
    own `pad`. Labels of texts are (n, T), padded with -100; class numbers are (n,). Other columns
    are ignored.

        collator = SpeechCollator(processor, model.config.decoder_start_token_id)  # Whisper
        collator = SpeechCollator(processor)  # CTC
        collator = SpeechCollator(feature_extractor)  # a classifier

    Args:
        processor: the model's processor, or its feature extractor alone.
        decoder_start_token_id: of a model that has a decoder. If every row of labels starts with
            it, it is cut, because the model inserts it itself when it shifts labels to decoder
            inputs. Rows may bring their own decoder_input_ids (T,).

    Raises:
        ValueError: the processor has no feature extractor for audio.
    """

    processor: ProcessorMixin | SequenceFeatureExtractor
    decoder_start_token_id: int | None = None

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        extractor = audio_extractor(self.processor)
        names = [name for name in input_names(extractor) if name in rows[0]]
        inputs = {name: [_as_array(row[name]) for row in rows] for name in names}
        batch = dict(extractor.pad(inputs, padding=True, return_tensors="pt"))
        if "labels" in rows[0]:
            batch["labels"] = self._labels(rows)
        if "decoder_input_ids" in rows[0]:
            decoder_inputs = [torch.as_tensor(row["decoder_input_ids"]) for row in rows]
            pad = self.processor.tokenizer.pad_token_id
            # (n, T)
            batch["decoder_input_ids"] = pad_sequence(
                decoder_inputs, batch_first=True, padding_value=pad
            )
        return batch

    def _labels(self, rows: Sequence[dict]) -> torch.Tensor:
        """Labels (n, T) of texts, or (n,) of classes."""
        labels = [torch.as_tensor(row["labels"], dtype=torch.long) for row in rows]
        if labels[0].ndim == 0:
            return torch.stack(labels)
        if all(len(row) and row[0] == self.decoder_start_token_id for row in labels):
            labels = [row[1:] for row in labels]
        return pad_sequence(labels, batch_first=True, padding_value=-100)


def _as_array(values: object) -> np.ndarray:
    """Inputs as an array, in float32 if they are floating-point numbers."""
    array = np.asarray(values)
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
