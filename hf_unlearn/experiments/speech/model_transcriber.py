"""Transcribes utterances with a model, and computes its losses on given texts; both are cached by
utterance."""

import functools

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from ...data.speech.audio import decode_chunk
from ...data.speech.collator import SpeechCollator
from ...data.speech.extractors import extract, longest_audio
from ...data.speech.labels import label_ids
from ...data.speech.row_cache import audio_states, bad_audio
from ...data.speech.speech_arguments import SpeechArguments
from ...report.weights import model_digest
from .utterance_cache import by_utterance

TRANSCRIBED_AT_ONCE = 16


class ModelTranscriber:
    """Transcribes utterances with a model that has a decoder.

    Args:
        data: its language and task are part of the key of cached losses, and its `skip_bad_audio`
            says whether bad audio may be skipped.
        end_token: as for `prepare`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        data: SpeechArguments,
        device: torch.device | str = "cpu",
        end_token: int | None = None,
    ):
        self.model, self.digest = model.eval().to(device), model_digest(model)
        self.processor, self.data, self.end_token = processor, data, end_token

    def transcripts(self, rows: datasets.Dataset) -> list[str | None]:
        """The model's transcripts, decoded greedily; None where bad audio may be skipped."""
        states = [Hasher.hash(state) for state in audio_states(rows)]
        key = Hasher.hash(["transcripts", self._basis])
        return by_utterance(key, states, lambda new: self._transcribe(rows.select(new)))

    def mean_losses(self, rows: datasets.Dataset, styles: dict[str, list[str]]) -> dict[str, float]:
        """The mean of the utterances' losses with each style of their transcripts.

        Args:
            styles: {style: the texts of the rows}.
        """
        texts = list(zip(*styles.values()))
        states = [Hasher.hash(state) for state in zip(audio_states(rows), texts)]
        prompt = self.data.language, self.data.task, self.end_token
        key = Hasher.hash(["losses", self._basis, prompt])
        losses = by_utterance(
            key, states, lambda new: self._losses(rows.select(new), [texts[row] for row in new])
        )
        # None stands for bad audio.
        losses_of_utterances = [by_style for by_style in losses if by_style is not None]
        means = [sum(of_style) / len(of_style) for of_style in zip(*losses_of_utterances)]
        return dict(zip(styles, means))

    def release(self) -> None:
        """Drops the model, to free its memory."""
        self.model = None

    # ---- what differs between kinds of models ----------------------------------------------------

    def settings(self) -> dict:
        """What the model's transcripts depend on, besides its weights and the audio."""
        vocabulary = self.processor.tokenizer.get_vocab()
        return {"generation": self.model.generation_config.to_dict(), "vocabulary": vocabulary}

    @torch.no_grad()
    def generate(self, inputs_of_each: list[dict[str, np.ndarray]]) -> list[str]:
        """The model's transcripts of the inputs of some utterances."""
        ids = self.model.generate(**self.batch(inputs_of_each), num_beams=1, do_sample=False)
        return self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)

    @torch.no_grad()
    def losses_of(self, inputs: dict[str, np.ndarray], texts: list[str]) -> list[float]:
        """The losses of an utterance with each of some texts as its label."""
        audio, start = self.batch([inputs]), self.model.config.decoder_start_token_id
        encoded = {"encoder_outputs": self.model.get_encoder()(**audio)}
        if "attention_mask" in audio:
            encoded["attention_mask"] = audio["attention_mask"]
        losses = []
        for ids in label_ids(texts, self.processor.tokenizer, end_token=self.end_token):
            batch = SpeechCollator(self.processor, start)([{**inputs, "labels": ids}])
            labels = batch["labels"].to(self.model.device)
            losses.append(self.model(**encoded, labels=labels).loss.item())
        return losses

    # ---- what all have ---------------------------------------------------------------------------

    def batch(self, inputs_of_each: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Inputs as the model takes them, on its device."""
        batch = SpeechCollator(self.processor)(inputs_of_each)
        for name, values in batch.items():
            dtype = self.model.dtype if values.is_floating_point() else values.dtype
            batch[name] = values.to(self.model.device, dtype)
        return batch

    @functools.cached_property
    def _basis(self) -> str:
        """A hash of what transcripts and losses depend on besides the utterance."""
        extractor = self.processor.feature_extractor.to_dict()
        return Hasher.hash([self.digest, self.settings(), extractor, self.data.skip_bad_audio])

    def _transcribe(self, rows: datasets.Dataset) -> list[str | None]:
        transcripts = []
        for start in tqdm(
            range(0, len(rows), TRANSCRIBED_AT_ONCE),
            desc="model's transcripts",
            unit="batch",
        ):
            chosen = range(start, min(start + TRANSCRIBED_AT_ONCE, len(rows)))
            inputs_of_each = [self._inputs(row) for row in rows.select(chosen)]
            good = [inputs for inputs in inputs_of_each if inputs is not None]
            texts = iter(self.generate(good) if good else ())
            transcripts += [None if inputs is None else next(texts) for inputs in inputs_of_each]
        return transcripts

    def _losses(
        self, rows: datasets.Dataset, texts: list[tuple[str, ...]]
    ) -> list[list[float] | None]:
        """The losses of each utterance with each of its texts; None where bad audio may be
        skipped."""
        inputs_of_each = map(self._inputs, rows)
        return [
            None if inputs is None else self.losses_of(inputs, list(its_texts))
            for inputs, its_texts in zip(inputs_of_each, texts)
        ]

    def _inputs(self, row: dict) -> dict[str, np.ndarray] | None:
        """The model's inputs for an utterance; None where bad audio may be skipped."""
        extractor = self.processor.feature_extractor
        longest = longest_audio(extractor, self.model.config)
        try:
            waveform = decode_chunk(
                row["audio"], extractor.sampling_rate, longest, allow_silence=False
            )
            return extract(extractor, waveform)
        except ValueError as error:
            if self.data.skip_bad_audio:
                return None
            raise bad_audio(row["id"], error) from None
