"""The speech recipe: a Whisper model, or another one that writes text with a decoder, forgets
speakers."""

import dataclasses
from collections.abc import Callable

import datasets
import torch
from torch.utils.data import ConcatDataset, Dataset
from transformers import (
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from ...config import UnlearnConfig
from ...data.speech.collator import SpeechCollator
from ...data.speech.extractors import (
    FRAMES_PER_SECOND,
    longest_audio,
    longest_label,
    shortest_audio,
)
from ...data.speech.speech_arguments import SpeechArguments
from ...data.speech.splits import SpeakerSplits, prepare_splits
from ...data.speech.transcripts import as_sentence
from ...metrics.normalizers import language_code
from ...trainer import check_prompt, whole_base_of
from ..command_line import parse
from ..loading import loading
from ..running.run import unlearn
from ..waiting import write_if_missing
from .augmentation import AugmentedSpeech
from .label_source import load_source
from .label_style import LabelStyle
from .model_transcriber import ModelTranscriber
from .options import WhisperArguments
from .recogniser import RecogniserRecipe
from .short_audio import TruncatedFeatures, take_short_audio
from .speech_models import Prepared, SpeechModels
from .tiny_whisper import build_model, build_processor, build_word_tokenizer
from .voice_windows import VoiceWindows
from .whisper_language import check_language, load_generation_config, set_language


class WhisperModels(SpeechModels):
    """Whisper models, or other models with a decoder. A new model is always a Whisper."""

    options: WhisperArguments

    @staticmethod
    def load_processor(
        options: WhisperArguments, data: SpeechArguments, config: PreTrainedConfig
    ) -> ProcessorMixin:
        start = options.start
        if type(config) not in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING:
            raise ValueError(
                f"{start} is a {config.model_type} model, which does not write text with a "
                "decoder: the recipe ctc_librispeech is for CTC models"
            )
        if not config.is_encoder_decoder:
            raise ValueError(
                f"{start} is a {config.model_type} model, a language model that gets the "
                "audio within its prompt, while this recipe is for models with an encoder and a "
                "decoder (Whisper, Moonshine, Speech2Text): use UnlearnTrainer with a data "
                "collator of your own, which writes the prompt"
            )
        with loading(start):
            if isinstance(config, WhisperConfig):
                processor = WhisperProcessor.from_pretrained(start)
                generation_config = load_generation_config(whole_base_of(start), config)
                set_prompt(data, start, processor.tokenizer, config, generation_config)
                return processor
            processor = AutoProcessor.from_pretrained(start)
        whisper_options = options.augment or options.forget_windows
        whisper_options = whisper_options or options.train_seconds is not None
        if data.task == "translate" or whisper_options:
            raise ValueError(
                f"{start} is not a Whisper: task: translate, augment, forget_windows and "
                "train_seconds work with Whisper only: leave them out"
            )
        return processor

    @staticmethod
    def new_processor(
        options: WhisperArguments,
        data: SpeechArguments,
        config: PreTrainedConfig | None,
        splits: SpeakerSplits,
    ) -> WhisperProcessor:
        processor = new_processor(options, splits, data.transcripts)
        check_language(processor.tokenizer, data.language, data.task)
        return processor

    @property
    def is_whisper(self) -> bool:
        """Whether the model is a Whisper, as every new one is."""
        return self.config is None or isinstance(self.config, WhisperConfig)

    def prepare(self, splits: SpeakerSplits, args: UnlearnConfig, training: bool) -> Prepared:
        data = self.data
        source, model = load_source(self.options, self.processor, self.load)
        has_transcripts = any(text.strip() for text in splits.retain["text"])
        compared = splits.retain if has_transcripts else splits.forget
        end_token = None
        if not self.is_whisper:
            end_token = self.config.get_text_config(decoder=True).eos_token_id
        transcriber = None
        if model is not None:
            transcriber = ModelTranscriber(model, self.processor, data, args.device, end_token)
        style = LabelStyle(transcriber, self.processor, data)
        style.choose(compared, args.seed)
        longest = self.options.max_target_positions
        prepared = prepare_splits(
            splits,
            self.processor,
            data,
            max_label_length=longest if self.config is None else longest_label(self.config),
            retain_pool=training,
            label_texts=style,
            end_token=end_token,
            longest=self._longest_audio(),
            shortest=self.config and shortest_audio(self.processor.feature_extractor, self.config),
            prompted=self.is_whisper,
        )
        style.release()
        return Prepared(source, style, prepared)

    def _longest_audio(self) -> float | None:
        """The longest audio in seconds; None if there is no limit."""
        longest = longest_audio(self.processor.feature_extractor, self.config)
        read = self.options.train_seconds
        if read is not None and not 1 <= read <= longest:
            raise ValueError(f"train_seconds is {read}, but must be from 1 to {longest}")
        return longest if read is None else read

    def load(self, name: str | None) -> PreTrainedModel:
        """Loads or builds a model; a Whisper whose `generate` prompts with the data's language and
        task."""
        options, data, tokenizer = self.options, self.data, self.processor.tokenizer
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
            set_prompt(data, "a new model", tokenizer, model.config, model.generation_config)
            return self._shortened(model)
        # in float32, whatever the stored type
        kind = WhisperForConditionalGeneration if self.is_whisper else AutoModelForSpeechSeq2Seq
        model = kind.from_pretrained(name, dtype=torch.float32)
        if self.is_whisper:
            set_prompt(data, name, tokenizer, model.config, model.generation_config)
        return self._shortened(model)

    def _shortened(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model, made to accept audio of `train_seconds`, too."""
        if self.options.train_seconds is not None and self.is_whisper:
            take_short_audio(model)
        return model


def set_prompt(
    data: SpeechArguments,
    name: str,
    tokenizer: WhisperTokenizer,
    config: WhisperConfig,
    generation_config: GenerationConfig,
) -> None:
    """Sets the language and task of labels and of `generate`.

    Raises:
        ValueError: their prompts would differ.
    """
    set_language(config, generation_config, name, data.language, data.task)
    if data.language or data.task:
        check_language(tokenizer, data.language, data.task)
        tokenizer.set_prefix_tokens(language=data.language, task=data.task)
    check_prompt(tokenizer, config, generation_config, name)


class WhisperRecipe(RecogniserRecipe):
    """A Whisper model, or another speech model with a decoder (Moonshine, Speech2Text, SpeechT5),
    forgets speakers."""

    generates = True
    kind_of_models = WhisperModels
    options: WhisperArguments
    models: WhisperModels

    @classmethod
    def load(
        cls,
        options: WhisperArguments,
        data: SpeechArguments,
        args: UnlearnConfig,
        *,
        training: bool,
    ) -> "WhisperRecipe":
        _check_windows(options.forget_windows, args.forget_objective)
        # Transcribing is the default of `generate`.
        task = data.task or (language_code(data.language or None) and "transcribe")
        data = dataclasses.replace(data, task=task)
        return super().load(options, data, args, training=training)

    def training_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        return self._read(self._augmented(rows, model)) if self.models.is_whisper else rows

    def tuning_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        return self._read(rows)

    def unlearning_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        return self._read(self._augmented(rows, model) if self.options.augment else rows)

    def forget_data(self, model: PreTrainedModel) -> Dataset:
        copies = self.options.forget_windows
        if copies:
            return VoiceWindows(self._read(self.splits.forget), copies)
        return super().forget_data(model)

    def retain_data(self, model: PreTrainedModel) -> Dataset:
        retain, copies = super().retain_data(model), self.options.augment
        return ConcatDataset([retain] * copies) if copies else retain

    def _read(self, rows: Dataset) -> Dataset:
        """The rows as training reads them: cut to `train_seconds`."""
        seconds = self.options.train_seconds
        return rows if seconds is None else TruncatedFeatures(rows, seconds)

    def collator(self, model: PreTrainedModel) -> SpeechCollator:
        return SpeechCollator(self.processor, model.config.decoder_start_token_id)

    @property
    def restyled(self) -> bool:
        return self.data.transcripts != "as_written"

    def _augmented(self, rows: Dataset, model: PreTrainedModel) -> AugmentedSpeech:
        shift = round(self.options.train_shift * FRAMES_PER_SECOND)
        return AugmentedSpeech(
            rows, self.processor, model.config, self.options.train_hidden_words, shift
        )


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
    # The forgotten speakers' words are included for the retrained model too, so that both
    # models have the same tokens.
    texts = [*splits.forget["text"], *splits.retain_pool["text"]]
    texts = map(as_sentence, texts) if transcripts == "sentence" else texts
    return build_processor(build_word_tokenizer(texts), options.chunk_length)


def _check_windows(copies: int, objective: str) -> None:
    """Raises ValueError where `forget_windows` cannot be used."""
    if copies < 0:
        raise ValueError(f"forget_windows is {copies}, but must be 0 or more")
    if copies and objective != "silence":
        raise ValueError(
            f"forget_windows is {copies}, but forget_objective='{objective}' raises the loss of "
            "texts, which windows of the audio do not have: set forget_objective to 'silence', or "
            "forget_windows to 0"
        )


def main(argv: list[str], write_data: Callable[[str], object] | None = None) -> None:
    """Runs the speech recipe: the `main` of its `unlearn.py`.

    Args:
        write_data: writes the dataset to a folder; called if `dataset` does not exist yet. None:
            the dataset has to be there.
    """
    options, data, args = parse((WhisperArguments, SpeechArguments, UnlearnConfig), argv)
    if write_data is not None:
        write_if_missing(data.dataset, write_data, args)
    unlearn(WhisperRecipe.load(options, data, args, training=options.needs_training_data))
