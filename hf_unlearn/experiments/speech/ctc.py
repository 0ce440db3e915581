"""The CTC recipe: a wav2vec 2.0, HuBERT, WavLM, Parakeet or other CTC model forgets speakers."""

import dataclasses
from collections.abc import Callable

import datasets
import torch
from torch.utils.data import Dataset
from transformers import (
    MODEL_FOR_CTC_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertProcessor,
    Wav2Vec2Processor,
)

from ...config import UnlearnConfig
from ...data.speech.collator import SpeechCollator
from ...data.speech.extractors import longest_audio, shortest_audio
from ...data.speech.speech_arguments import SpeechArguments
from ...data.speech.splits import SpeakerSplits, prepare_splits
from ...data.speech.transcripts import in_vocabulary
from ...evaluation import most_likely
from ...trainer import load_merged
from ..command_line import parse
from ..loading import loading
from ..running.run import unlearn
from .ctc_style import CtcStyle, CtcTranscriber
from .label_source import LabelSource, load_source
from .options import CtcArguments
from .recogniser import RecogniserRecipe
from .speech_models import Prepared, SpeechModels
from .tiny_ctc import build_character_tokenizer, build_model, build_processor

# Methods of transformers' models that give the number of frames for the length of an input.
FRAME_COUNTERS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")


class CtcModels(SpeechModels):
    """CTC models. One that was saved without a head gets a new one."""

    options: CtcArguments

    @staticmethod
    def load_processor(
        options: CtcArguments, data: SpeechArguments, config: PreTrainedConfig
    ) -> ProcessorMixin | None:
        start, new_head = options.start, is_headless(config)
        if type(config) not in MODEL_FOR_CTC_MAPPING:
            raise ValueError(
                f"{start} is a {config.model_type} model, which has no CTC head: the recipe "
                "whisper_librispeech is for models with a decoder"
            )
        if new_head and options.model != "train":
            raise ValueError(
                f"{start} has no CTC head, so it cannot transcribe: train one first, with "
                f"model: train and base_model: {start}"
            )
        with loading(start):
            return None if new_head else AutoProcessor.from_pretrained(start)

    @staticmethod
    def new_processor(
        options: CtcArguments,
        data: SpeechArguments,
        config: PreTrainedConfig | None,
        splits: SpeakerSplits,
    ) -> ProcessorMixin:
        # The forgotten speakers' characters are included for the retrained model too, so that both
        # models have the same tokens.
        texts = [*splits.forget["text"], *splits.retain_pool["text"]]
        tokenizer = build_character_tokenizer(texts)
        if config is None or not is_headless(config):
            return build_processor(tokenizer)
        with loading(options.base_model):
            extractor = AutoFeatureExtractor.from_pretrained(options.base_model)
        bert = isinstance(extractor, SeamlessM4TFeatureExtractor)
        return (Wav2Vec2BertProcessor if bert else Wav2Vec2Processor)(extractor, tokenizer)

    @property
    def new_head(self) -> bool:
        """Whether training gives the starting model a head, whose tokens are the data's
        characters."""
        return self.config is not None and is_headless(self.config)

    def prepare(self, splits: SpeakerSplits, args: UnlearnConfig, training: bool) -> Prepared:
        transcripts = self.data.transcripts or self._default_style(splits)
        data = dataclasses.replace(self.data, transcripts=transcripts)
        source = LabelSource.of(self.options)
        compared = splits.retain if has_text(splits.retain) else splits.forget
        transcriber = None
        if transcripts == "own" and not self.new_head:
            source, writer = load_source(self.options, self.processor, self.load)
            if writer is not None:
                transcriber = CtcTranscriber(writer, self.processor, data, args.device)
        style = CtcStyle(transcriber, self.processor, data)
        style.choose(compared, args.seed)
        model = load_merged(self.load, self.options.start)
        prepared = prepare_splits(
            splits,
            self.processor,
            data,
            retain_pool=training,
            label_texts=style,
            longest=longest_audio(self.processor.feature_extractor, self.config),
            shortest=shortest_audio(self.processor.feature_extractor, model.config),
            frames_of=frame_counter(model),
            prompted=False,
        )
        style.release()
        return Prepared(source, style, prepared)

    def _default_style(self, splits: SpeakerSplits) -> str:
        """Pretrained models get labels in their letters, or their own where the data has none."""
        if self.config is None or self.new_head:
            return "as_written"
        return "vocabulary" if has_text(splits.forget) or has_text(splits.retain) else "own"

    def load(self, name: str | None) -> PreTrainedModel:
        options = self.options
        if name is None:
            return build_model(
                self.processor,
                d_model=options.d_model,
                layers=options.layers,
                heads=options.heads,
                dropout=options.dropout,
            )
        head = {}
        if is_headless(AutoConfig.from_pretrained(name)):
            tokenizer = self.processor.tokenizer
            head = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
            head["ctc_loss_reduction"] = "mean"
        # in float32, whatever the stored type
        return AutoModelForCTC.from_pretrained(name, dtype=torch.float32, **head)


class CtcRecipe(RecogniserRecipe):
    """A CTC recogniser forgets speakers. All of its parameters are trained unless `trainable` says
    otherwise: the convolutions before the encoder, too."""

    generates = False
    kind_of_models = CtcModels
    options: CtcArguments

    @property
    def restyled(self) -> bool:
        return self.data.transcripts == "own"

    def training_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        return rows

    def collator(self, model: PreTrainedModel) -> SpeechCollator:
        return SpeechCollator(self.processor)

    def trainer_arguments(self, model: PreTrainedModel) -> dict:
        return {
            **super().trainer_arguments(model),
            "preprocess_logits_for_metrics": most_likely,
        }

    def truth(self, text: str) -> str:
        return in_vocabulary(text, self.processor.tokenizer)


def has_text(rows: datasets.Dataset) -> bool:
    """Whether any utterance has a transcript."""
    return any(text.strip() for text in rows["text"])


def is_headless(config: PreTrainedConfig) -> bool:
    """Whether a model was saved without a CTC head, as those trained without transcripts are."""
    return not any(name.endswith("ForCTC") for name in config.architectures or ())


def frame_counter(model: PreTrainedModel) -> Callable[[int], int] | None:
    """Gives a CTC model's number of frames for the length of an input; None where the model cannot
    tell."""
    for name in FRAME_COUNTERS:
        if hasattr(model, name):
            count = getattr(model, name)
            return lambda length: int(count(torch.tensor(length)))
    return None


def main(argv: list[str]) -> None:
    """Runs the CTC recipe: the `main` of its `unlearn.py`."""
    options, data, args = parse((CtcArguments, SpeechArguments, UnlearnConfig), argv)
    unlearn(CtcRecipe.load(options, data, args, training=options.needs_training_data))
