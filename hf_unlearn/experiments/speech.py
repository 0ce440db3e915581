"""The speech recipe: a Whisper model forgets speakers."""

import io
from collections import deque

import datasets
import numpy as np
import soundfile
import torch
from torch.utils.data import ConcatDataset, Dataset
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from ..config import UnlearnConfig
from ..data.speech.arguments import SpeechArguments
from ..data.speech.audio import SAMPLING_RATE, decode_audio
from ..data.speech.samples import SpeechCollator
from ..data.speech.splits import SpeakerSplits, load_splits, prepare_splits
from ..data.speech.transcripts import as_sentence
from ..evaluation import asr_metrics
from ..metrics import character_errors, error_rate, word_errors
from ..metrics.normalizers import language_code, normalizer
from ..report.results import Results
from ..trainer import UnlearnTrainer
from ..trainer.adapters import load_merged, whole_base_of
from ..trainer.prompts import check_language, check_prompt, load_generation_config, set_language
from .augmentation import FRAMES_PER_SECOND, Augmented
from .checks import check_model, loading
from .command_line import parse
from .label_style import LabelStyle
from .previous_requests import forgotten_before
from .recipe import Recipe
from .run import unlearn
from .speech_options import WhisperArguments
from .tiny_whisper import build_model, build_processor, build_word_tokenizer
from .waiting import main_process_first

# The transcripts of each split in results.json and report.html.
SHOWN = 8


class WhisperRecipe(Recipe):
    """A Whisper model forgets speakers.

    Args:
        training: whether the run trains a model, which needs the features of all training
            utterances.
    """

    task = "speakers"

    def __init__(
        self,
        options: WhisperArguments,
        data: SpeechArguments,
        args: UnlearnConfig,
        *,
        training: bool,
    ):
        self.options, self.data, self.args = options, data, args
        args.predict_with_generate, args.label_names = True, ["labels"]
        self.forgotten_before = forgotten_before(options.model)
        start = options.base_model if options.model == "train" else options.model
        data.language = language_code(data.language or None)
        # An unknown normaliser is refused before the data are read.
        normalizer(options.normalize, data.language)
        # Transcribing is the default of `generate`.
        data.task = data.task or (data.language and "transcribe")
        longest = self._load_processor(start) if start else options.max_target_positions
        with main_process_first(args):
            self.unprepared = load_splits(data, args.seed, self.forgotten_before.get("speaker", ()))
        if not start:
            self.processor = new_processor(options, self.unprepared, data.transcripts)
            check_language(self.processor.tokenizer, data.language, data.task)
        check_model(self)
        # The other processes find the features in the cache.
        with main_process_first(args):
            self._prepare(start, longest, training)
        # (predictions, references) of each split in the last evaluation
        self.texts = deque(maxlen=len(self.splits.evaluation()))

    def _load_processor(self, start: str) -> int:
        """Loads the processor of the starting model and checks its prompt. Returns the maximum
        length of its labels."""
        # An adapter has no configuration: from_pretrained would give that of the largest Whisper.
        whole = whole_base_of(start)
        with loading(start):
            self.processor = WhisperProcessor.from_pretrained(start)
            config = WhisperConfig.from_pretrained(whole)
        self._set_prompt(start, config, load_generation_config(whole, config))
        return config.max_target_positions

    def _prepare(self, start: str | None, longest: int, training: bool) -> None:
        """Chooses the style of the labels and computes the features of the splits."""
        splits, data, args = self.unprepared, self.data, self.args
        model = load_merged(self.load_model, start) if start else None
        has_transcripts = any(text.strip() for text in splits.retain["text"])
        compared = splits.retain if has_transcripts else splits.forget
        self.style = LabelStyle(model, self.processor, data, compared, args.device, args.seed)
        self.splits = prepare_splits(
            splits,
            self.processor,
            data,
            max_label_length=longest,
            retain_pool=training,
            label_texts=self.style,
        )
        self.style.release()

    def _set_prompt(
        self, name: str, config: WhisperConfig, generation_config: GenerationConfig
    ) -> None:
        """Sets the language and task of labels and of `generate`.

        Raises:
            ValueError: their prompts would differ.
        """
        tokenizer, data = self.processor.tokenizer, self.data
        set_language(config, generation_config, name, data.language, data.task)
        if data.language or data.task:
            check_language(tokenizer, data.language, data.task)
            tokenizer.set_prefix_tokens(language=data.language, task=data.task)
        check_prompt(tokenizer, config, generation_config, name)

    def load_model(self, name: str | None) -> WhisperForConditionalGeneration:
        """Loads or builds a Whisper whose `generate` prompts with the data's language and task."""
        options, data = self.options, self.data
        if name is None:
            model = build_model(
                self.processor,
                d_model=options.d_model,
                layers=options.layers,
                heads=options.heads,
                init_std=options.init_std,
                max_target_positions=options.max_target_positions,
                language=data.language,
                task=data.task,
            )
            self._set_prompt("a new model", model.config, model.generation_config)
            return model
        # in float32, whatever the stored type
        model = WhisperForConditionalGeneration.from_pretrained(name, dtype=torch.float32)
        self._set_prompt(name, model.config, model.generation_config)
        return model

    def training_data(
        self, model: WhisperForConditionalGeneration, rows: datasets.Dataset
    ) -> Augmented:
        return self._augmented(rows, model)

    def evaluation_data(
        self, model: WhisperForConditionalGeneration, rows: datasets.Dataset
    ) -> datasets.Dataset:
        return rows

    def trainer_arguments(self, model: WhisperForConditionalGeneration) -> dict:
        forget, retain = self.splits.forget, self.splits.retain
        if self.options.augment:
            forget, retain = self._augmented(forget, model), self._augmented(retain, model)
            retain = ConcatDataset([retain] * self.options.augment)
        return {
            "forget_dataset": forget,
            "retain_dataset": retain,
            "eval_dataset": self.splits.evaluation(self.data.max_eval_samples),
            "processing_class": self.processor,
            "data_collator": SpeechCollator(self.processor, model.config.decoder_start_token_id),
            "compute_metrics": asr_metrics(
                self.processor,
                normalize=self.options.normalize,
                language=self.data.language,
                seed=self.args.seed,
                texts=self.texts,
                references=self._references(),
            ),
        }

    def measure(self, trainer: UnlearnTrainer) -> dict:
        """Each speaker's error rate and a few transcripts, from the model's last evaluation."""
        measured = {"per_speaker": {}, "transcripts": {}}
        leading = trainer.compute_metrics.scoring["leads"]
        count = character_errors if leading == "cer" else word_errors
        for (split, rows), (said, references) in zip(trainer.eval_dataset.items(), self.texts):
            errors, words = count(said, references, allow_empty=True)
            speakers = np.array(rows["speaker"][:])
            measured["per_speaker"][split] = {
                speaker: error_rate(errors[speakers == speaker], words[speakers == speaker])
                for speaker in np.unique(speakers).tolist()
                if words[speakers == speaker].sum()
            }
            shown = zip(rows["id"][:SHOWN], references, said)
            measured["transcripts"][split] = [
                {"id": name, "reference": text, "said": heard} for name, text, heard in shown
            ]
        return measured

    def finish(self, results: Results, trainer: UnlearnTrainer) -> None:
        """Puts all models' transcripts of an utterance side by side, and adds how the labels were
        written."""
        results.labels = {"losses": self.style.losses, "counts": dict(self.style.counts)}
        measured = results.transcripts
        results.transcripts = {
            split: [
                {
                    "id": row["id"],
                    "reference": row["reference"],
                    "models": {
                        model: splits[split][place]["said"] for model, splits in measured.items()
                    },
                }
                for place, row in enumerate(rows)
            ]
            for split, rows in measured["unlearned"].items()
        }

    def audio(self, results: Results) -> dict[str, bytes]:
        wanted = {
            row["id"]
            for rows in results.transcripts.values()
            for row in rows[: self.options.report_audio]
        }
        sounds = {}
        for part in vars(self.unprepared).values() if wanted else ():
            if isinstance(part, datasets.Dataset):
                for place, name in enumerate(part["id"][:]):
                    if name in wanted:
                        sounds[name] = as_wav(part[place]["audio"])
        return sounds

    def plan(self) -> dict:
        losses = ", ".join(f"{style} {loss:.2f}" for style, loss in self.style.losses.items())
        return {
            "transcripts": self.data.transcripts,
            "original's loss by transcripts": losses or "not known",
        }

    def _references(self) -> dict[str, str]:
        """{label's text: the data's transcript}; {} where the labels are the transcripts."""
        if self.data.transcripts == "as_written":
            return {}
        parts = [
            rows.select_columns(["labels", "text"]) for rows in self.splits.evaluation().values()
        ]
        rows = datasets.concatenate_datasets(parts)
        said = self.processor.tokenizer.batch_decode(rows["labels"][:], skip_special_tokens=True)
        pairs = list(zip(said, rows["text"][:]))
        # Later pairs win. Sorting puts the data's own transcripts after labels that stand in for a
        # missing transcript.
        return dict(sorted(pairs, key=lambda pair: pair[0].strip() != pair[1]))

    def card_arguments(self) -> dict:
        return {"language": self.data.language}

    def _augmented(self, rows: Dataset, model: WhisperForConditionalGeneration) -> Augmented:
        shift = round(self.options.train_shift * FRAMES_PER_SECOND)
        return Augmented(rows, self.processor, model.config, self.options.train_hidden_words, shift)


def as_wav(audio: dict) -> bytes:
    """The utterance as a WAV file, which every browser plays."""
    file = io.BytesIO()
    soundfile.write(file, decode_audio(audio), SAMPLING_RATE, format="WAV")
    return file.getvalue()


def new_processor(
    options: WhisperArguments, splits: SpeakerSplits, transcripts: str | None
) -> WhisperProcessor:
    """Builds the processor of a new model, with a token for every word of the data unless a
    tokenizer is given."""
    if options.tokenizer is not None:
        with loading(options.tokenizer):
            return build_processor(
                WhisperTokenizer.from_pretrained(options.tokenizer), options.chunk_length
            )
    # The forgotten speakers' words are included for the retrained reference too, so that both
    # models have the same tokens.
    texts = [*splits.forget["text"], *splits.retain_pool["text"]]
    texts = map(as_sentence, texts) if transcripts == "sentence" else texts
    return build_processor(build_word_tokenizer(texts), options.chunk_length)


def main(argv: list[str]) -> None:
    """Runs the speech recipe: the `main` of its `unlearn.py`."""
    options, data, args = parse((WhisperArguments, SpeechArguments, UnlearnConfig), argv)
    unlearn(WhisperRecipe(options, data, args, training=options.trains))
