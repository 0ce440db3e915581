"""Writes labels in the style of the model that is to forget: as written, as sentences, or as the
model itself transcribes."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from ...data.sampling import balanced
from ...data.speech.arguments import SpeechArguments
from ...data.speech.audio import decode_chunk
from ...data.speech.collator import SpeechCollator
from ...data.speech.extractors import extract, longest_audio
from ...data.speech.labels import label_ids
from ...data.speech.row_cache import audio_states
from ...data.speech.transcripts import as_sentence, own_or
from ...files import written_whole
from ...metrics.normalizers import UNSPACED, normalizer
from ...report.weights import model_digest

logger = logging.get_logger(__name__)

# The number of utterances on which the styles are compared.
SAMPLES = 10
TRANSCRIBED_AT_ONCE = 16


class LabelStyle:
    """Writes the labels of a model with a decoder in the style `data.transcripts`. Where that is
    None, the style is chosen and stored there: "as_written" if the model finds the data's
    transcripts at least as likely as sentences, else "own". Without transcripts it is "own".

    Args:
        model: the model that is to forget; None for a new model, which has no style yet.
        rows: utterances on which the styles are compared. Only those with a transcript are used.
        end_token: as for `prepare`.

    Attributes:
        losses: {style: the model's mean loss over at most `SAMPLES` of the rows}; {} without a
            model or transcripts.
        counts: the numbers of labels that are the model's "own" or a "sentence", and of utterances
            with "no transcript".
        plain: the style of labels where the model's own transcript is wrong.
        compared: the styles whose losses are compared.

    Raises:
        ValueError: a new model is asked for its own transcripts, or the style is one of CTC models.
    """

    plain = "sentence"
    compared = ("as_written", "sentence", "own")
    not_taken = ("vocabulary", "for CTC models: leave it out")

    def __init__(
        self,
        model: PreTrainedModel | None,
        processor: ProcessorMixin,
        data: SpeechArguments,
        rows: datasets.Dataset,
        device: torch.device | str = "cpu",
        seed: int = 0,
        end_token: int | None = None,
    ):
        self.processor, self.data = processor, data
        style, reason = self.not_taken
        if data.transcripts == style:
            raise ValueError(f"transcripts is {style}, which is {reason}")
        self.model, self.digest = None, None
        self.losses, self.counts, self.end_token = {}, Counter(), end_token
        # The model's transcripts, by the state of an utterance's audio.
        self._transcripts: dict[str, str | None] = {}
        name, self._clean = normalizer(True, data.language, processor.tokenizer)
        self._language = {"spaced": data.language not in UNSPACED, "english": name == "english"}
        if model is None:
            if data.transcripts == "own":
                raise ValueError(
                    "transcripts is own, but a new model says nothing yet: set it to as_written or "
                    f"{self.plain}"
                )
            data.transcripts = data.transcripts or "as_written"
            return
        self.model, self.digest = model.eval().to(device), model_digest(model)
        written = [place for place, text in enumerate(rows["text"][:]) if text.strip()]
        if written:
            self.losses = self._compare(balanced(rows.select(written), "speaker", SAMPLES, seed))
        if data.transcripts is None:
            unlikely = self.losses.get("as_written", torch.inf) > self.losses.get("sentence", 0)
            data.transcripts = "own" if unlikely else "as_written"

    def __call__(self, rows: datasets.Dataset) -> list[str]:
        """The texts of the rows' labels."""
        if self.data.transcripts == "own":
            missing = sum(not text.strip() for text in rows["text"][:])
            if missing:
                self.counts["no transcript"] += missing
                logger.warning(
                    f"{missing} of {len(rows)} utterances have no transcript: the model's own "
                    "transcript becomes their label and their reference."
                )
        texts = self.written(rows, self.data.transcripts)
        said = self.own(rows) if self.data.transcripts == "own" else []
        own = sum(text == other for text, other in zip(texts, said))
        self.counts.update({"own": own, self.plain: len(texts) - own} if said else {})
        return texts

    def written(self, rows: datasets.Dataset, style: str) -> list[str]:
        """The rows' transcripts in a style: "as_written", `plain` or "own"."""
        references = rows["text"][:]
        if style == "as_written":
            return references
        plain = self.rewritten(references)
        if style == self.plain:
            return plain
        texts = zip(self.own(rows), references, plain)
        return [own_or(*each, self._agree) for each in texts]

    def rewritten(self, references: list[str]) -> list[str]:
        """The references in the style `plain`."""
        return [as_sentence(text, **self._language) for text in references]

    def own(self, rows: datasets.Dataset) -> list[str | None]:
        """The model's transcripts, decoded greedily; None where bad audio may be skipped."""
        settings = {**self.settings(), "skip": self.data.skip_bad_audio}
        made_of = ["own", self.digest, settings, self.processor.feature_extractor.to_dict()]
        states = [Hasher.hash(state) for state in audio_states(rows)]
        return self._cached(Hasher.hash([*made_of, states]), lambda: self._transcribe(rows, states))

    def settings(self) -> dict:
        """What the model's transcripts depend on, beside its weights and the audio."""
        return self.model.generation_config.to_dict()

    def release(self) -> None:
        """Drops the model, to free its memory."""
        self.model = None

    def _agree(self, said: str, reference: str) -> bool:
        return self._clean(said).split() == self._clean(reference).split()

    def _cached(self, key: str, make: Callable[[], list | dict]) -> list | dict:
        """Returns `make()`, as JSON from the cache of `datasets` where it was computed before."""
        path = Path(datasets.config.HF_DATASETS_CACHE) / "hf_unlearn" / f"{key}.json"
        if not path.exists():
            made = make()
            with written_whole(path) as partial:
                partial.write_text(json.dumps(made))
        return json.loads(path.read_text())

    def _transcribe(self, rows: datasets.Dataset, states: list[str]) -> list[str | None]:
        new = [place for place, state in enumerate(states) if state not in self._transcripts]
        for start in tqdm(
            range(0, len(new), TRANSCRIBED_AT_ONCE),
            desc="model's transcripts",
            unit="batch",
        ):
            places = new[start : start + TRANSCRIBED_AT_ONCE]
            heard = [self._inputs(row) for row in rows.select(places)]
            good = [inputs for inputs in heard if inputs is not None]
            said = iter(self.generate(good) if good else ())
            for place, inputs in zip(places, heard):
                self._transcripts[states[place]] = None if inputs is None else next(said)
        return [self._transcripts[state] for state in states]

    @torch.no_grad()
    def generate(self, heard: list[dict[str, np.ndarray]]) -> list[str]:
        """The model's transcripts of the inputs of some utterances."""
        ids = self.model.generate(**self._batch(heard), num_beams=1, do_sample=False)
        return self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _batch(self, heard: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Inputs as the model takes them, on its device."""
        batch = SpeechCollator(self.processor)(heard)
        for name, values in batch.items():
            dtype = self.model.dtype if values.is_floating_point() else values.dtype
            batch[name] = values.to(self.model.device, dtype)
        return batch

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

    def _compare(self, rows: datasets.Dataset) -> dict[str, float]:
        styles = {style: self.written(rows, style) for style in self.compared}
        made_of = [
            "losses",
            self.digest,
            audio_states(rows),
            styles,
            self.data.language,
            self.data.task,
        ]
        return self._cached(Hasher.hash(made_of), lambda: self.mean_losses(rows, styles))

    def mean_losses(self, rows: datasets.Dataset, styles: dict[str, list[str]]) -> dict[str, float]:
        """The mean of the utterances' losses, by style."""
        losses = {style: [] for style in styles}
        for place, row in enumerate(rows):
            inputs = self._inputs(row)
            if inputs is None:
                continue
            found = self.losses_of(inputs, [texts[place] for texts in styles.values()])
            for style, loss in zip(styles, found):
                losses[style].append(loss)
        return {style: sum(each) / len(each) for style, each in losses.items() if each}

    @torch.no_grad()
    def losses_of(self, inputs: dict[str, np.ndarray], texts: list[str]) -> list[float]:
        """The losses of an utterance with each of some texts as its label."""
        heard, start = self._batch([inputs]), self.model.config.decoder_start_token_id
        given = {"encoder_outputs": self.model.get_encoder()(**heard)}
        if "attention_mask" in heard:
            given["attention_mask"] = heard["attention_mask"]
        losses = []
        for ids in label_ids(texts, self.processor.tokenizer, end_token=self.end_token):
            batch = SpeechCollator(self.processor, start)([{**inputs, "labels": ids}])
            labels = batch["labels"].to(self.model.device)
            losses.append(self.model(**given, labels=labels).loss.item())
        return losses
