"""Tiny random speech recognisers of many architectures, saved with their processors, with speech
of two speakers and the arguments of a run."""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    HubertConfig,
    HubertForCTC,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetProcessor,
    ParakeetTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Speech2TextConfig,
    Speech2TextFeatureExtractor,
    Speech2TextForConditionalGeneration,
    Speech2TextProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WavLMConfig,
    WavLMForCTC,
    WhisperFeatureExtractor,
)

from hf_unlearn.experiments.speech import tiny_ctc, tiny_whisper
from tests.support.tiny_speech import WIDTH, waveform_sizes, write_noise

TEXTS = ("ONE TWO", "TWO", "ONE")
# A frame every 40 ms.
FRAMES = {"conv_kernel": (40, 16), "conv_stride": (40, 16)}
WAVEFORMS = waveform_sizes(dropout=True, layerdrop=0.0, mask_time_length=2, **FRAMES)
DECODER = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}


def write_speech(folder: Path) -> Path:
    """Half a second of noise for each of two speakers' four training and two test utterances."""
    # CTC models of LibriSpeech write "ONE TWO".
    return write_noise(
        folder,
        (
            (
                f"{speaker}{take}.wav",
                speaker,
                f"{TEXTS[take % 3].capitalize()}.",
                "train" if take < 4 else "test",
            )
            for speaker in ("anna", "bert")
            for take in range(6)
        ),
    )


def save(folder: Path, model: PreTrainedModel, processor: ProcessorMixin) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def ctc_processor(**options) -> Wav2Vec2Processor:
    tokenizer = tiny_ctc.build_character_tokenizer(TEXTS)
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(**options), tokenizer)


def word_tokenizer(template: str, kind: type = PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """One token for each word; <pad>, <s> and </s> are 0, 1 and 2."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "One", "Two", "one", "two", "ONE", "TWO", "."]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("<s>", 1), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[token for token in special if token[0] in template]
    )
    return kind(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def wav2vec2() -> tuple[PreTrainedModel, ProcessorMixin]:
    """With group norm and without a mask, as wav2vec2-base-960h."""
    return Wav2Vec2ForCTC(Wav2Vec2Config(**WAVEFORMS)), ctc_processor()


def hubert() -> tuple[PreTrainedModel, ProcessorMixin]:
    config = HubertConfig(**WAVEFORMS, feat_extract_norm="layer", do_stable_layer_norm=True)
    return HubertForCTC(config), ctc_processor(return_attention_mask=True)


def wavlm() -> tuple[PreTrainedModel, ProcessorMixin]:
    return WavLMForCTC(WavLMConfig(**WAVEFORMS, num_buckets=8)), ctc_processor()


def parakeet() -> tuple[PreTrainedModel, ProcessorMixin]:
    encoder = {**WIDTH, "num_hidden_layers": 1, "subsampling_conv_channels": 8, "num_mel_bins": 80}
    config = ParakeetCTCConfig(vocab_size=20, pad_token_id=0, encoder_config=encoder)
    tokenizer = word_tokenizer("$A", ParakeetTokenizer)
    return ParakeetForCTC(config), ParakeetProcessor(ParakeetFeatureExtractor(), tokenizer)


def moonshine() -> tuple[PreTrainedModel, ProcessorMixin]:
    config = MoonshineConfig(
        **WIDTH,
        **DECODER,
        vocab_size=20,
        encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        max_position_embeddings=24,
    )
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    # The start token, but no end token, as Moonshine's own.
    return MoonshineForConditionalGeneration(config), Wav2Vec2Processor(
        extractor, word_tokenizer("<s> $A")
    )


def speech2text() -> tuple[PreTrainedModel, ProcessorMixin]:
    config = Speech2TextConfig(
        **{**DECODER, "decoder_start_token_id": 2},
        vocab_size=20,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        conv_channels=16,
        max_source_positions=200,
        max_target_positions=24,
    )
    processor = Speech2TextProcessor(Speech2TextFeatureExtractor(), word_tokenizer("$A </s>"))
    return Speech2TextForConditionalGeneration(config), processor


def whisper(encoder: int, decoder: int, mels: int) -> tuple[PreTrainedModel, ProcessorMixin]:
    tokenizer = tiny_whisper.build_word_tokenizer([*TEXTS, "One Two.", "Two.", "One."])
    processor = tiny_whisper.build_processor(tokenizer, chunk_length=1)
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=1)
    size = {"d_model": 16, "layers": 1, "heads": 2, "max_target_positions": 24}
    model = tiny_whisper.build_model(processor, **size)
    config, generation_config = model.config, model.generation_config
    config.encoder_layers, config.decoder_layers = encoder, decoder
    model = type(model)(config)
    model.generation_config = generation_config
    return model, processor


def turbo() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Few decoder layers and 128 mel bins, as large-v3-turbo."""
    return whisper(encoder=2, decoder=1, mels=128)


def distil() -> tuple[PreTrainedModel, ProcessorMixin]:
    """A shallow decoder and 80 mel bins, as distil-whisper."""
    return whisper(encoder=3, decoder=2, mels=80)


def saved(make: Callable[[], tuple[PreTrainedModel, ProcessorMixin]], folder: Path) -> Path:
    torch.manual_seed(0)
    return save(folder, *make())


def flags(data: Path, out: Path, **changes: object) -> list[str]:
    """The arguments of a recipe's short run on `write_speech`'s speech."""
    options = {
        "dataset": data,
        "output_dir": out,
        "speaker_column": "speaker",
        "train_split": "train",
        "test_split": "test",
        "forget_speakers": "anna",
        "retain_size": 2,
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "per_device_retain_batch_size": 2,
        "learning_rate": 1e-3,
        "use_cpu": "true",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": "true",
        # These models understand nothing.
        "stop_when": "forget_loss >= 1000",
        "abort_when": "test_loss > 1000",
        **changes,
    }
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]
