"""What the Whisper recipe has of its own: models, features, augmentation and word error rates."""

import io
from collections import deque

import datasets
import numpy as np
import soundfile
import torch
from arguments import WhisperArguments
from tiny_whisper import build_model, build_processor, build_word_tokenizer
from torch.utils.data import ConcatDataset, Dataset
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor, WhisperTokenizer

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.adapters import whole_base_of
from hf_unlearn.data.speech import SAMPLING_RATE, SpeechArguments, SpeechCollator, decode_audio
from hf_unlearn.data.splits import SpeakerSplits, load_splits, prepare_splits
from hf_unlearn.evaluation import asr_metrics
from hf_unlearn.metrics import error_rate, word_errors
from hf_unlearn.recipe import Recipe
from hf_unlearn.recipe.earlier import forgotten_before
from hf_unlearn.recipe.early import check_model, loading
from hf_unlearn.waiting import main_process_first

SHOWN = 8  # transcripts of each split in results.json and report.html
FRAMES_PER_SECOND = 100  # of Whisper's mel spectrogram


class Augmented(Dataset):
    """Prepared rows, made different each time so that a model that sees few sentences learns to listen.

    A few hundred sentences are soon known by heart: two words recall the rest, and the audio is not needed.
    `hidden` is the share of the decoder's input words that are hidden (the end token in their place), `shift` the
    number of frames by which the utterance starts later, at most.
    """

    def __init__(self, rows, processor: WhisperProcessor, model_config, hidden: float, shift: int):
        self.rows, self.model_config, self.hidden, self.shift = rows, model_config, hidden, shift
        self.special = torch.tensor(processor.tokenizer.all_special_ids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        return {**row, "input_features": self._shifted(row), "decoder_input_ids": self._partly_hidden(row["labels"])}

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
        return inputs.masked_fill(words & (torch.rand(inputs.shape) < self.hidden), self.model_config.eos_token_id)


class WhisperRecipe(Recipe):
    """Speakers, forgotten by a Whisper.

    training: whether a model is to be trained, which takes features of all training utterances.
    """

    task = "speakers"

    def __init__(self, options: WhisperArguments, data: SpeechArguments, args: UnlearnConfig, *, training: bool):
        self.options, self.data, self.args = options, data, args
        args.predict_with_generate, args.label_names = True, ["labels"]
        self.forgotten_before = forgotten_before(options.model)
        with main_process_first(args):
            splits = self.unprepared = load_splits(data, args.seed, self.forgotten_before.get("speaker", ()))
        start = options.base_model if options.model == "train" else options.model
        self.processor = load_processor(start, options, splits)
        whole = whole_base_of(start)  # an adapter has no configuration, and gets that of the largest Whisper
        longest = WhisperConfig.from_pretrained(whole).max_target_positions if start else options.max_target_positions
        check_model(self)
        with main_process_first(args):  # the others find them in the cache
            self.splits = prepare_splits(splits, self.processor, data, max_label_length=longest, retain_pool=training)
        self.texts = deque(maxlen=len(self.splits.evaluation()))  # of the last evaluation of all splits

    def load_model(self, name: str | None) -> WhisperForConditionalGeneration:
        """`generate` then prompts with the language and task of the data."""
        options, data = self.options, self.data
        if name is None:
            return build_model(
                self.processor,
                d_model=options.d_model,
                layers=options.layers,
                heads=options.heads,
                init_std=options.init_std,
                max_target_positions=options.max_target_positions,
                language=data.language,
                task=data.task,
            )
        model = WhisperForConditionalGeneration.from_pretrained(name, dtype=torch.float32)  # however it is stored
        if data.language is not None:
            model.generation_config.update(language=data.language, task=data.task)
        return model

    def training_data(self, model: WhisperForConditionalGeneration, rows: datasets.Dataset) -> Augmented:
        return self._augmented(rows, model)

    def evaluation_data(self, model: WhisperForConditionalGeneration, rows: datasets.Dataset) -> datasets.Dataset:
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
                self.processor, normalize=self.options.normalize, seed=self.args.seed, texts=self.texts
            ),
        }

    def measure(self, trainer: UnlearnTrainer) -> dict:
        """Word error rate of each speaker, and a few transcripts, of the model that was evaluated last."""
        measured = {"per_speaker": {}, "transcripts": {}}
        for (split, rows), (said, references) in zip(trainer.eval_dataset.items(), self.texts):
            errors, words = word_errors(said, references, allow_empty=True)
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
        """Puts the models' transcripts of an utterance side by side."""
        measured = results["transcripts"]
        results["transcripts"] = {
            split: [
                {
                    "id": row["id"],
                    "reference": row["reference"],
                    "models": {model: splits[split][place]["said"] for model, splits in measured.items()},
                }
                for place, row in enumerate(rows)
            ]
            for split, rows in measured["unlearned"].items()
        }

    def audio(self, results: dict) -> dict[str, bytes]:
        wanted = {row["id"] for rows in results["transcripts"].values() for row in rows[: self.options.report_audio]}
        sounds = {}
        for part in vars(self.unprepared).values() if wanted else ():
            if isinstance(part, datasets.Dataset):
                for place, name in enumerate(part["id"][:]):
                    if name in wanted:
                        sounds[name] = as_wav(part[place]["audio"])
        return sounds

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


def load_processor(name: str | None, options: WhisperArguments, splits: SpeakerSplits) -> WhisperProcessor:
    """Loads the processor of model `name`, or builds the one of a new model (None) for these transcripts."""
    if name is not None:
        with loading(name):
            return WhisperProcessor.from_pretrained(name)
    if options.tokenizer is not None:
        with loading(options.tokenizer):
            return build_processor(WhisperTokenizer.from_pretrained(options.tokenizer), options.chunk_length)
    # The forgotten speakers' words are in it for the retrained reference too: both models have the same tokens.
    return build_processor(
        build_word_tokenizer([*splits.forget["text"], *splits.retain_pool["text"]]), options.chunk_length
    )
