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
from ...data.speech.splits import prepare_splits
from ...data.speech.transcripts import in_vocabulary
from ...evaluation import most_likely
from ...trainer import load_merged
from ..command_line import parse
from ..loading import loading
from ..running.run import unlearn
from .ctc_style import CtcStyle, CtcTranscriber
from .label_source import LabelSource, load_source
from .options import CtcArguments
from .recogniser import Prepared, RecogniserRecipe
from .tiny_ctc import build_character_tokenizer, build_model, build_processor

# Methods of transformers' models that give the number of frames for the length of an input.
FRAME_COUNTERS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")


class CtcRecipe(RecogniserRecipe):
    """A CTC recogniser forgets speakers. All of its parameters are trained unless `trainable` says
    otherwise: the convolutions before the encoder, too.

    Args:
        training: whether the run trains a model, which needs the features of all training
            utterances.
    """

    generates = False

    @property
    def restyled(self) -> bool:
        return self.data.transcripts == "own"

    @property
    def new_head(self) -> bool:
        """Whether training gives the starting model a head, whose tokens are the data's
        characters."""
        return self.config is not None and is_headless(self.config)

    def load_processor(self, start: str) -> ProcessorMixin | None:
        if type(self.config) not in MODEL_FOR_CTC_MAPPING:
            raise ValueError(
                f"{start} is a {self.config.model_type} model, which has no CTC head: the recipe "
                "whisper_librispeech is for models with a decoder"
            )
        if self.new_head and self.options.model != "train":
            raise ValueError(
                f"{start} has no CTC head, so it cannot transcribe: train one first, with "
                f"model: train and base_model: {start}"
            )
        with loading(start):
            return None if self.new_head else AutoProcessor.from_pretrained(start)

    def new_processor(self) -> ProcessorMixin:
        # The forgotten speakers' characters are included for the retrained model too, so that both
        # models have the same tokens.
        splits = self.unprepared
        texts = [*splits.forget["text"], *splits.retain_pool["text"]]
        tokenizer = build_character_tokenizer(texts)
        if not self.new_head:
            return build_processor(tokenizer)
        with loading(self.options.base_model):
            extractor = AutoFeatureExtractor.from_pretrained(self.options.base_model)
        bert = isinstance(extractor, SeamlessM4TFeatureExtractor)
        return (Wav2Vec2BertProcessor if bert else Wav2Vec2Processor)(extractor, tokenizer)

    def prepare(self, start: str | None, training: bool) -> Prepared:
        splits = self.unprepared
        transcripts = self.data.transcripts or self._default_style(start)
        data = dataclasses.replace(self.data, transcripts=transcripts)
        source = LabelSource.of(self.options)
        compared = splits.retain if has_text(splits.retain) else splits.forget
        transcriber = None
        if transcripts == "own" and not self.new_head:
            source, writer = load_source(self.options, self.processor, self.load_model)
            if writer is not None:
                transcriber = CtcTranscriber(writer, self.processor, data, self.args.device)
        style = CtcStyle(transcriber, self.processor, data)
        style.choose(compared, self.args.seed)
        model = load_merged(self.load_model, start)
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

    def _default_style(self, start: str | None) -> str:
        """Pretrained models get labels in their letters, or their own where the data has none."""
        if start is None or self.new_head:
            return "as_written"
        splits = self.unprepared
        return "vocabulary" if has_text(splits.forget) or has_text(splits.retain) else "own"

    def load_model(self, name: str | None) -> PreTrainedModel:
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
    unlearn(CtcRecipe(options, data, args, training=options.needs_training_data))
