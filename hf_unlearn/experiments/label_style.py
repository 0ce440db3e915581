"""Labels in the style of the model that is to forget: its own transcripts, and how likely it finds
each style."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import torch
from datasets.fingerprint import Hasher
from tqdm.auto import tqdm
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from ..data.sampling import balanced
from ..data.speech.arguments import SpeechArguments
from ..data.speech.audio import decode_chunk
from ..data.speech.samples import SpeechCollator, audio_states
from ..data.speech.transcripts import as_sentence, own_or_sentence
from ..metrics.normalizers import UNSPACED, normalizer
from .reference_models import weights_digest

logger = logging.getLogger(__name__)

SAMPLES = 10  # utterances on which the styles are compared
BATCH = 16  # utterances that are transcribed at once


class LabelStyle:
    """Writes the labels of utterances as `data.transcripts` asks for; None is decided, and put
    there.

    Args:
        model: what speaks; None for a new one, which has no style yet.
        rows: utterances to compare the styles on, those with a transcript among them.

    Attributes:
        losses: {style: the model's mean loss over at most `SAMPLES` of the rows}; {} without a
            model or transcripts.
        counts: how many labels are the model's "own", how many a "sentence", and how many have "no
            transcript".

    Raises:
        ValueError: own transcripts of a new model.
    """

    def __init__(
        self,
        model: WhisperForConditionalGeneration | None,
        processor: WhisperProcessor,
        data: SpeechArguments,
        rows: datasets.Dataset,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ):
        self.processor, self.data = processor, data
        self.losses, self.counts = {}, Counter()
        name, self._clean = normalizer(True, data.language, processor.tokenizer)
        self._language = {"spaced": data.language not in UNSPACED, "english": name == "english"}
        if model is None:
            if data.transcripts == "own":
                raise ValueError(
                    "transcripts is own, but a new model says nothing yet: set it to as_written or "
                    "sentence"
                )
            data.transcripts = data.transcripts or "as_written"
            return
        self.model, self.digest = model.eval().to(device), weights_digest(model)
        self._said: dict[str, str | None] = {}  # by the state of an utterance's audio
        told = [place for place, text in enumerate(rows["text"][:]) if text.strip()]
        if told:
            self.losses = self._compare(balanced(rows.select(told), "speaker", SAMPLES, seed))
        if data.transcripts is None:
            foreign = self.losses.get("as_written", torch.inf) > self.losses.get("sentence", 0)
            data.transcripts = "own" if foreign else "as_written"

    def __call__(self, rows: datasets.Dataset) -> list[str]:
        """What the labels of the rows say."""
        if self.data.transcripts == "own":
            missing = sum(not text.strip() for text in rows["text"][:])
            if missing:
                self.counts["no transcript"] += missing
                logger.warning(
                    "%d of %d utterances have no transcript: what the model itself says of them is "
                    "their label and their "
                    "reference.", missing, len(rows),
                )  # fmt: skip
        texts = self.written(rows, self.data.transcripts)
        said = self.own(rows) if self.data.transcripts == "own" else []
        own = sum(text == other for text, other in zip(texts, said))
        self.counts.update({"own": own, "sentence": len(texts) - own} if said else {})
        return texts

    def written(self, rows: datasets.Dataset, style: str) -> list[str]:
        references = rows["text"][:]
        if style == "as_written":
            return references
        if style == "sentence":
            return [as_sentence(text, **self._language) for text in references]
        said = self.own(rows)
        return [
            own_or_sentence(*pair, self._agree, **self._language) for pair in zip(said, references)
        ]

    def own(self, rows: datasets.Dataset) -> list[str | None]:
        """What the model says of each utterance, greedily; None where the audio is bad and may be
        skipped."""
        settings = {**self.model.generation_config.to_dict(), "skip": self.data.skip_bad_audio}
        made_of = ["own", self.digest, settings, self.processor.feature_extractor.to_dict()]
        states = [Hasher.hash(state) for state in audio_states(rows)]
        return self._kept(Hasher.hash([*made_of, states]), lambda: self._transcribe(rows, states))

    def release(self) -> None:
        """Lets go of the model."""
        self.model = None

    def _agree(self, said: str, reference: str) -> bool:
        return self._clean(said).split() == self._clean(reference).split()

    def _kept(self, key: str, make: Callable):
        """What `make` returns, from the cache of `datasets` where it is there."""
        path = Path(datasets.config.HF_DATASETS_CACHE) / "hf_unlearn" / f"{key}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = make()
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(made))
            partial.rename(path)
        return json.loads(path.read_text())

    def _transcribe(self, rows: datasets.Dataset, states: list[str]) -> list[str | None]:
        new = [place for place, state in enumerate(states) if state not in self._said]
        for start in tqdm(
            range(0, len(new), BATCH), desc="the model's own transcripts", unit="batch"
        ):
            places = new[start : start + BATCH]
            heard = [self._features(row) for row in rows.select(places)]
            good = [features for features in heard if features is not None]
            said = iter(self._generate(torch.cat(good)) if good else ())
            for place, features in zip(places, heard):
                self._said[states[place]] = None if features is None else next(said)
        return [self._said[state] for state in states]

    @torch.no_grad()
    def _generate(self, features: torch.Tensor) -> list[str]:
        ids = self.model.generate(features, num_beams=1, do_sample=False)
        return self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _features(self, row: dict) -> torch.Tensor | None:
        """(1, n_mels, frames)"""
        extractor = self.processor.feature_extractor
        try:
            waveform = decode_chunk(row["audio"], extractor)
        except ValueError as error:
            if self.data.skip_bad_audio:
                return None
            raise ValueError(
                f"utterance {row['id']}: {error}; remove it, or pass skip_bad_audio to leave it out"
            ) from None
        found = extractor(
            waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt"
        ).input_features
        return found.to(self.model.device, self.model.dtype)

    def _compare(self, rows: datasets.Dataset) -> dict[str, float]:
        styles = {style: self.written(rows, style) for style in ("as_written", "sentence", "own")}
        made_of = [
            "losses",
            self.digest,
            audio_states(rows),
            styles,
            self.data.language,
            self.data.task,
        ]
        return self._kept(Hasher.hash(made_of), lambda: self._losses(rows, styles))

    @torch.no_grad()
    def _losses(self, rows: datasets.Dataset, styles: dict[str, list[str]]) -> dict[str, float]:
        """The mean over utterances of each one's loss, by style."""
        collator = SpeechCollator(self.processor, self.model.config.decoder_start_token_id)
        losses = {style: [] for style in styles}
        for place, row in enumerate(rows):
            features = self._features(row)
            if features is None:
                continue
            encoded = self.model.get_encoder()(features)
            for style, texts in styles.items():
                labels = self.processor.tokenizer(texts[place]).input_ids
                batch = collator([{"input_features": features[0].float().cpu(), "labels": labels}])
                labels = batch["labels"].to(self.model.device)
                losses[style].append(self.model(encoder_outputs=encoded, labels=labels).loss.item())
        return {style: sum(each) / len(each) for style, each in losses.items() if each}
