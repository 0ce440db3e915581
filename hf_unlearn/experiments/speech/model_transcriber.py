"""Transcribes utterances with a model, and computes its losses on given texts; both are cached."""

import json
from collections.abc import Callable
from pathlib import Path

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
from ...data.speech.row_cache import audio_states
from ...data.speech.speech_arguments import SpeechArguments
from ...files import written_whole
from ...report.weights import model_digest

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
        # The model's transcripts, by the state of an utterance's audio.
        self._transcripts: dict[str, str | None] = {}

    def transcripts(self, rows: datasets.Dataset) -> list[str | None]:
        """The model's transcripts, decoded greedily; None where bad audio may be skipped."""
        settings = {**self.settings(), "skip": self.data.skip_bad_audio}
        made_of = ["own", self.digest, settings, self.processor.feature_extractor.to_dict()]
        states = [Hasher.hash(state) for state in audio_states(rows)]
        return _cached(Hasher.hash([*made_of, states]), lambda: self._transcribe(rows, states))

    def mean_losses(self, rows: datasets.Dataset, styles: dict[str, list[str]]) -> dict[str, float]:
        """The mean of the utterances' losses with each style of their transcripts.

        Args:
            styles: {style: the texts of the rows}.
        """
        made_of = ["losses", self.digest, audio_states(rows), styles]
        made_of += [self.data.language, self.data.task]
        return _cached(Hasher.hash(made_of), lambda: self._mean_losses(rows, styles))

    def release(self) -> None:
        """Drops the model, to free its memory."""
        self.model = None

    # ---- what differs between kinds of models ----------------------------------------------------

    def settings(self) -> dict:
        """What the model's transcripts depend on, beside its weights and the audio."""
        return self.model.generation_config.to_dict()

    @torch.no_grad()
    def generate(self, heard: list[dict[str, np.ndarray]]) -> list[str]:
        """The model's transcripts of the inputs of some utterances."""
        ids = self.model.generate(**self.batch(heard), num_beams=1, do_sample=False)
        return self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)

    @torch.no_grad()
    def losses_of(self, inputs: dict[str, np.ndarray], texts: list[str]) -> list[float]:
        """The losses of an utterance with each of some texts as its label."""
        heard, start = self.batch([inputs]), self.model.config.decoder_start_token_id
        given = {"encoder_outputs": self.model.get_encoder()(**heard)}
        if "attention_mask" in heard:
            given["attention_mask"] = heard["attention_mask"]
        losses = []
        for ids in label_ids(texts, self.processor.tokenizer, end_token=self.end_token):
            batch = SpeechCollator(self.processor, start)([{**inputs, "labels": ids}])
            labels = batch["labels"].to(self.model.device)
            losses.append(self.model(**given, labels=labels).loss.item())
        return losses

    # ---- what all have ---------------------------------------------------------------------------

    def batch(self, heard: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Inputs as the model takes them, on its device."""
        batch = SpeechCollator(self.processor)(heard)
        for name, values in batch.items():
            dtype = self.model.dtype if values.is_floating_point() else values.dtype
            batch[name] = values.to(self.model.device, dtype)
        return batch

    def _transcribe(self, rows: datasets.Dataset, states: list[str]) -> list[str | None]:
        new = [row for row, state in enumerate(states) if state not in self._transcripts]
        for start in tqdm(
            range(0, len(new), TRANSCRIBED_AT_ONCE),
            desc="model's transcripts",
            unit="batch",
        ):
            chosen = new[start : start + TRANSCRIBED_AT_ONCE]
            heard = [self._inputs(row) for row in rows.select(chosen)]
            good = [inputs for inputs in heard if inputs is not None]
            said = iter(self.generate(good) if good else ())
            for row, inputs in zip(chosen, heard):
                self._transcripts[states[row]] = None if inputs is None else next(said)
        return [self._transcripts[state] for state in states]

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
            raise ValueError(
                f"utterance {row['id']}: {error}; remove it, or pass skip_bad_audio to leave it out"
            ) from None

    def _mean_losses(
        self, rows: datasets.Dataset, styles: dict[str, list[str]]
    ) -> dict[str, float]:
        losses = {style: [] for style in styles}
        for number, row in enumerate(rows):
            inputs = self._inputs(row)
            if inputs is None:
                continue
            found = self.losses_of(inputs, [texts[number] for texts in styles.values()])
            for style, loss in zip(styles, found):
                losses[style].append(loss)
        return {style: sum(each) / len(each) for style, each in losses.items() if each}


def _cached(key: str, make: Callable[[], list | dict]) -> list | dict:
    """Returns `make()`, as JSON from the cache of `datasets` where it was computed before."""
    path = Path(datasets.config.HF_DATASETS_CACHE) / "hf_unlearn" / f"{key}.json"
    if not path.exists():
        made = make()
        with written_whole(path) as partial:
            partial.write_text(json.dumps(made))
    return json.loads(path.read_text())
