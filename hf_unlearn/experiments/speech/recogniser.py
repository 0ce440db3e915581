"""What the recipes of speech recognition share: data, splits, measurements and transcripts."""

import copy
import dataclasses
import io
from collections.abc import Mapping
from typing import Any, TypeVar

import datasets
import numpy as np
import soundfile
from transformers import EvalPrediction, PreTrainedModel

from ...config import UnlearnConfig
from ...data.speech.audio import SAMPLING_RATE, decode_audio
from ...data.speech.speech_arguments import SpeechArguments
from ...data.speech.splits import SpeakerSplits, load_splits
from ...evaluation import TextMetrics, asr_metrics
from ...metrics import character_errors, error_rate, word_errors
from ...metrics.normalizers import language_code, normalizer
from ...metrics.token_texts import text_of
from ...report.phases import PhaseClock
from ...report.results import Results
from ...trainer import UnlearnTrainer
from ..checks.model_checks import check_model
from ..command_line import parse
from ..history.earlier import RequestHistory, find_earlier
from ..models.training import train
from ..options import TrainArguments
from ..recipe import Recipe
from ..waiting import main_process_first
from .label_source import options_of_evaluated_run
from .options import RecogniserArguments
from .speech_models import Prepared, SpeechModels, load_config

# The transcripts of each split in results.json and report.html.
SHOWN = 8


Recogniser = TypeVar("Recogniser", bound="RecogniserRecipe")


class RecogniserRecipe(Recipe):
    """A speech recogniser forgets speakers. What differs between kinds of recognisers is in its
    subclasses and in their models.

    Args:
        models: loads the models of the run.
        unprepared: the splits as they were loaded.
        prepared: the same splits with inputs and labels, and what wrote the labels.
        clock: has measured the time of loading.

    Attributes:
        label_source, style: see `Prepared`.
    """

    task = "speakers"
    options: RecogniserArguments
    data: SpeechArguments
    splits: SpeakerSplits
    # whether the texts of an evaluation come from `generate`
    generates: bool
    kind_of_models: type[SpeechModels]

    def __init__(
        self,
        options: RecogniserArguments,
        data: SpeechArguments,
        args: UnlearnConfig,
        *,
        models: SpeechModels,
        unprepared: SpeakerSplits,
        prepared: Prepared,
        earlier: RequestHistory,
        clock: PhaseClock,
    ):
        self.options, self.args = options, copy.copy(args)
        self.args.predict_with_generate, self.args.label_names = self.generates, ["labels"]
        self.models, self.processor = models, models.processor
        self.unprepared = unprepared
        self.label_source, self.style, self.splits = prepared
        self.data = dataclasses.replace(data, transcripts=self.style.name)
        self.earlier, self.clock = earlier, clock
        self.forgotten_before = earlier.names_with(unprepared)

    @classmethod
    def load(
        cls: type[Recogniser],
        options: Any,
        data: SpeechArguments,
        args: UnlearnConfig,
        *,
        training: bool,
    ) -> Recogniser:
        """Loads the data and the processor, and prepares the data for the models.

        Args:
            options: of the subclass's own class.
            training: whether the run trains a model, which needs the features of all training
                utterances.
        """
        clock, kind, start = PhaseClock(), cls.kind_of_models, options.start
        language = language_code(data.language or None)
        # An evaluation takes the style of the run that made the model.
        style = data.transcripts or options_of_evaluated_run(options, "data").get("transcripts")
        data = dataclasses.replace(data, language=language, transcripts=style)
        earlier = find_earlier(options.model, args.output_dir)
        # An unknown normaliser is refused before the data is read.
        normalizer(options.normalize, data.language)
        config = load_config(start) if start else None
        processor = kind.load_processor(options, data, config) if start else None
        with clock.phase("loading"), main_process_first(args):
            unprepared = load_splits(data, args.seed, earlier.requests())
        if processor is None:
            processor = kind.new_processor(options, data, config, unprepared)
        models = kind(options, data, config, processor)
        check_model(options, args, models.load)
        # The other processes find the features in the cache.
        with clock.phase("features"), main_process_first(args):
            prepared = models.prepare(unprepared, args, training)
        return cls(
            options,
            data,
            args,
            models=models,
            unprepared=unprepared,
            prepared=prepared,
            earlier=earlier,
            clock=clock,
        )

    def load_model(self, name: str | None) -> PreTrainedModel:
        return self.models.load(name)

    @property
    def restyled(self) -> bool:
        """Whether labels differ from the transcripts that predictions are compared with."""
        raise NotImplementedError

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
        measured = results.transcripts or {}
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
    recipe = kind.load(options, data, args, training=True)
    train(recipe, "retrained" if alone.without_forget else "original")
