"""What the recipes of speech recognition share: data, splits, measurements and transcripts."""

import copy
import dataclasses
import io
from collections.abc import Mapping
from typing import NamedTuple

import datasets
import numpy as np
import soundfile
from transformers import (
    AutoConfig,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from ...config import UnlearnConfig
from ...data.speech.audio import SAMPLING_RATE, decode_audio
from ...data.speech.speech_arguments import SpeechArguments
from ...data.speech.splits import SpeakerSplits, load_splits
from ...evaluation import TextMetrics, asr_metrics
from ...metrics import character_errors, error_rate, word_errors
from ...metrics.normalizers import language_code, normalizer
from ...metrics.token_texts import text_of
from ...report.results import Results
from ...trainer import UnlearnTrainer, whole_base_of
from ..checks.model_checks import check_model
from ..command_line import parse
from ..history.earlier import find_earlier
from ..loading import loading
from ..models.training import train
from ..options import TrainArguments
from ..recipe import Recipe
from ..waiting import main_process_first
from .label_source import LabelSource, options_of_evaluated_run
from .label_style import LabelStyle
from .options import RecogniserArguments

# The transcripts of each split in results.json and report.html.
SHOWN = 8


class Prepared(NamedTuple):
    """The data of a run, ready for its models.

    Attributes:
        label_source: the model whose style the labels are written in.
        style: what wrote the labels.
        splits: with inputs and labels.
    """

    label_source: LabelSource
    style: LabelStyle
    splits: SpeakerSplits


class RecogniserRecipe(Recipe):
    """A speech recogniser forgets speakers. What differs between kinds of recognisers is in its
    subclasses.

    Args:
        training: whether the run trains a model, which needs the features of all training
            utterances.

    Attributes:
        config: of the model that the run starts from; None for a new model.
        unprepared: the splits as they were loaded.
        label_source, style: see `Prepared`.
    """

    task = "speakers"
    # whether the texts of an evaluation come from `generate`
    generates: bool

    @property
    def restyled(self) -> bool:
        """Whether labels differ from the transcripts that predictions are compared with."""
        raise NotImplementedError

    def __init__(
        self,
        options: RecogniserArguments,
        data: SpeechArguments,
        args: UnlearnConfig,
        *,
        training: bool,
    ):
        self.options, self.args = options, copy.copy(args)
        self.args.predict_with_generate, self.args.label_names = self.generates, ["labels"]
        language = language_code(data.language or None)
        # An evaluation takes the style of the run that made the model.
        style = data.transcripts or options_of_evaluated_run(options, "data").get("transcripts")
        self.data = data = dataclasses.replace(data, language=language, transcripts=style)
        self.earlier = find_earlier(options.model, args.output_dir)
        start = options.start
        # An unknown normaliser is refused before the data is read.
        normalizer(options.normalize, data.language)
        self.config = load_config(start) if start else None
        processor = self.load_processor(start) if start else None
        with self.clock.phase("loading"), main_process_first(args):
            self.unprepared = load_splits(data, args.seed, self.earlier.requests())
        self.forgotten_before = self.earlier.names_with(self.unprepared)
        self.processor = self.new_processor() if processor is None else processor
        check_model(self)
        # The other processes find the features in the cache.
        with self.clock.phase("features"), main_process_first(args):
            prepared = self.prepare(start, training)
        self.label_source, self.style, self.splits = prepared
        self.data = dataclasses.replace(data, transcripts=self.style.name)

    # ---- what a subclass has to define -----------------------------------------------------------

    def load_processor(self, start: str) -> ProcessorMixin | None:
        """The processor of the model that the run starts from, whose `config` is known by now;
        None if it has yet to be made.

        Raises:
            ValueError: it cannot be loaded, or belongs to another kind of model.
        """
        raise NotImplementedError

    def new_processor(self) -> ProcessorMixin:
        """A processor for a model that has none. The data is known by now (`unprepared`)."""
        raise NotImplementedError

    def prepare(self, start: str | None, training: bool) -> Prepared:
        """Gives the splits inputs and labels.

        Args:
            start: the model that the run starts from; None for a new one.
        """
        raise NotImplementedError

    # ---- what all have ---------------------------------------------------------------------------

    def evaluation_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> datasets.Dataset:
        return rows

    def measure(
        self, trainer: UnlearnTrainer, predictions: Mapping[str, EvalPrediction]
    ) -> dict[str, dict]:
        """Each speaker's error rate and a few transcripts."""
        measured, metrics = {"per_speaker": {}, "transcripts": {}}, self.metrics()
        count = character_errors if metrics.scoring["leads"] == "cer" else word_errors
        for split, prediction in predictions.items():
            rows = trainer.eval_dataset[split]
            transcripts, references = metrics.texts(prediction)
            errors, words = count(transcripts, references, allow_empty=True)
            speakers = np.array(rows["speaker"][:])
            measured["per_speaker"][split] = {
                speaker: error_rate(errors[speakers == speaker], words[speakers == speaker])
                for speaker in np.unique(speakers).tolist()
                if words[speakers == speaker].sum()
            }
            shown = zip(rows["id"][:SHOWN], references, transcripts)
            measured["transcripts"][split] = [
                {"id": name, "reference": text, "said": transcript}
                for name, text, transcript in shown
            ]
        return measured

    def measured_with(self) -> dict:
        # The references also include rows that are not evaluated.
        return {"references": self.references()}

    def finish(self, results: Results, trainer: UnlearnTrainer) -> None:
        """Puts all models' transcripts of an utterance side by side, and adds how the labels were
        written."""
        results.labels = self.labels()
        measured = results.transcripts
        results.transcripts = {
            split: [
                {
                    "id": row["id"],
                    "reference": row["reference"],
                    "models": {
                        model: splits[split][index]["said"] for model, splits in measured.items()
                    },
                }
                for index, row in enumerate(rows)
            ]
            for split, rows in measured["unlearned"].items()
        }

    def labels(self) -> dict:
        """How the labels are written, which losses depend on."""
        return {
            "transcripts": self.data.transcripts,
            "losses": self.style.losses,
            "counts": dict(self.style.counts),
            "model": self.label_source.name,
        }

    def evaluation_notes(self) -> dict:
        labels = self.labels()
        return {"labels": {**labels, "note": self.label_source.note(labels["transcripts"])}}

    def metrics(self) -> TextMetrics:
        return asr_metrics(
            self.processor,
            normalize=self.options.normalize,
            language=self.data.language,
            seed=self.args.seed,
            references=self.references() if self.restyled else None,
            ctc=not self.generates,
        )

    def references(self) -> dict[str, str]:
        """{label's text: the transcript that predictions are compared with}."""
        parts = [
            rows.select_columns(["labels", "text"]) for rows in self.splits.evaluation().values()
        ]
        rows = datasets.concatenate_datasets(parts)
        written = [text_of(self.processor.tokenizer, ids) for ids in rows["labels"][:]]
        pairs = [(label, self.truth(text)) for label, text in zip(written, rows["text"][:])]
        # Later pairs win. Sorting puts the data's own transcripts after labels that stand in for a
        # missing transcript.
        return dict(sorted(pairs, key=lambda pair: pair[0].strip() != pair[1]))

    def truth(self, text: str) -> str:
        """The data's transcript as predictions are compared with it."""
        return text

    def audio(self, results: Results) -> dict[str, bytes]:
        ids = {
            row["id"]
            for rows in results.transcripts.values()
            for row in rows[: self.options.report_audio]
        }
        sounds = {}
        for part in self.unprepared.parts().values() if ids else ():
            for index, name in enumerate(part["id"][:]):
                if name in ids:
                    sounds[name] = as_wav(part[index]["audio"])
        return sounds

    def plan(self) -> dict:
        losses = ", ".join(f"{style} {loss:.2f}" for style, loss in self.style.losses.items())
        return {
            "transcripts": self.data.transcripts,
            "original's loss by transcripts": losses or "not known",
        }

    def card_arguments(self) -> dict:
        return {"language": self.data.language}


def load_config(start: str) -> PreTrainedConfig:
    """The configuration of a model or, for an adapter, of its base model.

    Raises:
        ValueError: it cannot be loaded.
    """
    with loading(start):
        # An adapter has no configuration: from_pretrained would give that of the largest Whisper.
        return AutoConfig.from_pretrained(whole_base_of(start))


def as_wav(audio: dict) -> bytes:
    """The utterance as a WAV file, which every browser plays."""
    file = io.BytesIO()
    soundfile.write(file, decode_audio(audio), SAMPLING_RATE, format="WAV")
    return file.getvalue()


def train_alone(
    argv: list[str], options_kind: type[RecogniserArguments], kind: type[RecogniserRecipe]
) -> None:
    """Trains the original or the retrained model of a recipe: the `main` of its `train.py`."""
    kinds = (options_kind, SpeechArguments, UnlearnConfig, TrainArguments)
    options, data, args, alone = parse(kinds, argv)
    options.model = "train"
    recipe = kind(options, data, args, training=True)
    train(recipe, "retrained" if alone.without_forget else "original")
