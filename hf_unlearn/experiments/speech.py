"""The recipe of speech recognisers that forget speakers: options, models, augmentation and word
error rates."""

import io
from collections import deque
from dataclasses import dataclass, field

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
from ..trainer import UnlearnTrainer
from ..trainer.adapters import load_merged, whole_base_of
from ..trainer.prompts import check_language, check_prompt, load_generation_config, set_language
from .checks import check_model, loading
from .command_line import parse
from .earlier import forgotten_before
from .label_style import LabelStyle
from .options import RecipeArguments
from .recipe import Recipe
from .run import unlearn
from .tiny_whisper import build_model, build_processor, build_word_tokenizer
from .waiting import main_process_first


@dataclass
class WhisperArguments(RecipeArguments):
    """Which Whisper is built where none is loaded, and how its training data is varied."""

    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "New model: folder or Hub id of a tokenizer; without it one token per "
            "word of the data."
        },
    )
    d_model: int = field(
        default=96,
        metadata={"help": "New model: width; the feed-forward layers have four times it."},
    )
    layers: int = field(
        default=2, metadata={"help": "New model: layers of the encoder, and of the decoder."}
    )
    heads: int = field(default=4, metadata={"help": "New model: attention heads."})
    init_std: float = field(
        default=0.06, metadata={"help": "New model: standard deviation of the initial weights."}
    )
    chunk_length: int = field(
        default=30,
        metadata={
            "help": "New model: seconds of audio it takes. It computes all of them, silent or not."
        },
    )
    max_target_positions: int = field(
        default=448,
        metadata={"help": "New model: most tokens of a transcript, special ones included."},
    )
    train_hidden_words: float = field(
        default=0.0,
        metadata={
            "help": "'train': share of the words that the decoder does not see while it learns."
        },
    )
    train_shift: float = field(
        default=0.0,
        metadata={
            "help": "'train': seconds by which an utterance starts later, at most, drawn each time."
        },
    )
    augment: int = field(
        default=0,
        metadata={
            "help": "Unlearning takes its samples with train_hidden_words and train_shift, too, "
            "and each retain sample "
            "so many times over, each time another way; 0: samples as they are."
        },
    )
    normalize: str = field(
        default="true",
        metadata={
            "help": "Normaliser of texts before WER and CER: 'english' (Whisper's; it joins spoken "
            "digits to one word: false "
            "there), 'basic' for other languages, 'none'; true: by the language, false: none."
        },
    )
    report_audio: int = field(
        default=0,
        metadata={
            "help": "report.html plays so many utterances of each split: mind what the data's "
            "license and the speakers allow."
        },
    )
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
        metadata={"help": "LoRA: names of the layers that get an adapter."},
    )

    _not_of_training = RecipeArguments._not_of_training | {"augment", "normalize", "report_audio"}


SHOWN = 8  # transcripts of each split in results.json and report.html
FRAMES_PER_SECOND = 100  # of Whisper's mel spectrogram


class Augmented(Dataset):
    """Prepared rows, made different each time so that a model that sees few sentences learns to
    listen.

    A few hundred sentences are soon known by heart: two words recall the rest, and the audio is not
    needed. `hidden` is the share of the decoder's input words that are hidden (the end token in
    their place), `shift` the number of frames by which the utterance starts later, at most.
    """

    def __init__(self, rows, processor: WhisperProcessor, model_config, hidden: float, shift: int):
        self.rows, self.model_config, self.hidden, self.shift = rows, model_config, hidden, shift
        self.special = torch.tensor(processor.tokenizer.all_special_ids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        return {
            **row,
            "input_features": self._shifted(row),
            "decoder_input_ids": self._partly_hidden(row["labels"]),
        }

    def _shifted(self, row: dict) -> np.ndarray:
        features = np.asarray(row["input_features"])
        silent = features.shape[1] - int(np.ceil(row["duration"] * FRAMES_PER_SECOND))
        shift = int(torch.randint(min(self.shift, max(silent, 0)) + 1, ()))
        return np.roll(features, shift, axis=1)

    def _partly_hidden(self, labels: list[int]) -> torch.Tensor:
        """What the decoder reads while it is to say `labels`."""
        start = self.model_config.decoder_start_token_id
        inputs = torch.tensor([start, *(labels[1:] if labels[0] == start else labels)[:-1]])
        words = ~torch.isin(inputs, self.special)
        return inputs.masked_fill(
            words & (torch.rand(inputs.shape) < self.hidden), self.model_config.eos_token_id
        )


class WhisperRecipe(Recipe):
    """Speakers, forgotten by a Whisper.

    training: whether a model is to be trained, which takes features of all training utterances.
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
        # refuses what it does not know before the data are read
        normalizer(options.normalize, data.language)
        data.task = data.task or (data.language and "transcribe")  # as `generate` does
        if start:
            # an adapter has no configuration, and gets that of the largest Whisper
            whole = whole_base_of(start)
            with loading(start):
                self.processor, config = (
                    WhisperProcessor.from_pretrained(start),
                    WhisperConfig.from_pretrained(whole),
                )
            self._prompt(start, config, load_generation_config(whole, config))
        with main_process_first(args):
            splits = self.unprepared = load_splits(
                data, args.seed, self.forgotten_before.get("speaker", ())
            )
        if not start:
            self.processor = new_processor(options, splits, data.transcripts)
            check_language(self.processor.tokenizer, data.language, data.task)
        longest = config.max_target_positions if start else options.max_target_positions
        check_model(self)
        with main_process_first(args):  # the others find them in the cache
            speaker = load_merged(self.load_model, start) if start else None
            known = (
                splits.retain
                if any(text.strip() for text in splits.retain["text"])
                else splits.forget
            )
            self.style = LabelStyle(speaker, self.processor, data, known, args.device, args.seed)
            self.splits = prepare_splits(
                splits,
                self.processor,
                data,
                max_label_length=longest,
                retain_pool=training,
                label_texts=self.style,
            )
            self.style.release()
        # of the last evaluation of all splits
        self.texts = deque(maxlen=len(self.splits.evaluation()))

    def _prompt(
        self, name: str, config: WhisperConfig, generation_config: GenerationConfig
    ) -> None:
        """Labels and `generate` get the language and the task of the data. Raises ValueError where
        both differ."""
        tokenizer, data = self.processor.tokenizer, self.data
        set_language(config, generation_config, name, data.language, data.task)
        if data.language or data.task:
            check_language(tokenizer, data.language, data.task)
            tokenizer.set_prefix_tokens(language=data.language, task=data.task)
        check_prompt(tokenizer, config, generation_config, name)

    def load_model(self, name: str | None) -> WhisperForConditionalGeneration:
        """`generate` then prompts with the language and task of the data."""
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
            self._prompt("a new model", model.config, model.generation_config)
            return model
        # however it is stored
        model = WhisperForConditionalGeneration.from_pretrained(name, dtype=torch.float32)
        self._prompt(name, model.config, model.generation_config)
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
        """Error rate of each speaker, and a few transcripts, of the model that was evaluated
        last."""
        measured = {"per_speaker": {}, "transcripts": {}}
        count = (
            character_errors if trainer.compute_metrics.scoring["leads"] == "cer" else word_errors
        )
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

    def finish(self, results: dict, trainer: UnlearnTrainer) -> None:
        """Puts the models' transcripts of an utterance side by side, and says how the labels were
        written."""
        results["labels"] = {"losses": self.style.losses, "counts": dict(self.style.counts)}
        measured = results["transcripts"]
        results["transcripts"] = {
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

    def audio(self, results: dict) -> dict[str, bytes]:
        wanted = {
            row["id"]
            for rows in results["transcripts"].values()
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
        """The transcripts of the data by what the labels say, where these are in another style."""
        if self.data.transcripts == "as_written":
            return {}
        parts = [
            rows.select_columns(["labels", "text"]) for rows in self.splits.evaluation().values()
        ]
        rows = datasets.concatenate_datasets(parts)
        said = self.processor.tokenizer.batch_decode(rows["labels"][:], skip_special_tokens=True)
        pairs = list(zip(said, rows["text"][:]))
        # What the data have as a transcript goes before what stands in for one that is missing.
        return dict(sorted(pairs, key=lambda pair: pair[0].strip() != pair[1]))

    def card_arguments(self) -> dict:
        return {"language": self.data.language}

    def _augmented(self, rows, model: WhisperForConditionalGeneration) -> Augmented:
        shift = round(self.options.train_shift * FRAMES_PER_SECOND)
        return Augmented(rows, self.processor, model.config, self.options.train_hidden_words, shift)


def as_wav(audio: dict) -> bytes:
    """The utterance as a sound file that every browser plays."""
    file = io.BytesIO()
    soundfile.write(file, decode_audio(audio), SAMPLING_RATE, format="WAV")
    return file.getvalue()


def new_processor(
    options: WhisperArguments, splits: SpeakerSplits, transcripts: str | None
) -> WhisperProcessor:
    """Builds the processor of a new model for these transcripts."""
    if options.tokenizer is not None:
        with loading(options.tokenizer):
            return build_processor(
                WhisperTokenizer.from_pretrained(options.tokenizer), options.chunk_length
            )
    # The forgotten speakers' words are in it for the retrained reference too: both models have the
    # same tokens.
    texts = [*splits.forget["text"], *splits.retain_pool["text"]]
    texts = map(as_sentence, texts) if transcripts == "sentence" else texts
    return build_processor(build_word_tokenizer(texts), options.chunk_length)


def main(argv: list[str]) -> None:
    """What the speech recipes' `unlearn.py` do."""
    options, data, args = parse((WhisperArguments, SpeechArguments, UnlearnConfig), argv)
    unlearn(WhisperRecipe(options, data, args, training=options.trains))
