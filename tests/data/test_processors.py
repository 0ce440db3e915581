"""Every kind of speech processor: its inputs, padding, labels, and what its model cannot learn."""

import io
import json
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from transformers import (
    ASTFeatureExtractor,
    BartConfig,
    MoonshineConfig,
    MoonshineModel,
    ParakeetFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    SEWConfig,
    Speech2TextConfig,
    Speech2TextFeatureExtractor,
    SpeechEncoderDecoderConfig,
    SpeechT5FeatureExtractor,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    Wav2Vec2Processor,
    WhisperFeatureExtractor,
)

from hf_unlearn.data import SpeechCollator, decode_audio, longest_audio, longest_label, prepare
from hf_unlearn.data.speech.extractors import shortest_audio
from hf_unlearn.data.speech.labels import input_lengths

EXTRACTORS = {
    "whisper": WhisperFeatureExtractor(feature_size=8, chunk_length=1),
    "wav2vec2 with layer norm": Wav2Vec2FeatureExtractor(return_attention_mask=True),
    "moonshine": Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True),
    "speech2text": Speech2TextFeatureExtractor(),
    "seamless": SeamlessM4TFeatureExtractor(),
    "parakeet": ParakeetFeatureExtractor(),
    "ast": ASTFeatureExtractor(max_length=100),
    "speecht5": SpeechT5FeatureExtractor(),
}


def utterances(seconds=(0.3, 0.62, 0.45), rate=16_000, text="TWO THREE") -> Dataset:
    """Noise of the given lengths as rows of `load_speech`."""
    rows = []
    for number, length in enumerate(seconds):
        noise = 0.1 * np.random.default_rng(number).normal(size=int(length * rate))
        rows.append(row(f"u{number}", noise.astype(np.float32), rate, text))
    return Dataset.from_list(rows).cast_column("audio", Audio(decode=False))


def row(name: str, samples: np.ndarray, rate: int = 16_000, text: str = "TWO") -> dict:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    audio = {"bytes": file.getvalue(), "path": f"{name}.wav"}
    return {"id": name, "speaker": "a", "text": text, "audio": audio}


@pytest.fixture
def ctc(tmp_path) -> Wav2Vec2Processor:
    """Upper-case letters, "|" between words, "<pad>" as the blank."""
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"EHORTW"]
    (tmp_path / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(tokens)}))
    tokenizer = Wav2Vec2CTCTokenizer(tmp_path / "vocab.json")
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_prepared_and_collated_rows_are_the_extractors_own_batch(name):
    extractor, rows = EXTRACTORS[name], utterances()
    prepared = prepare(rows, extractor, labels=[2, 0, 1])
    batch = SpeechCollator(extractor)([prepared[number] for number in range(3)])
    waveforms = [decode_audio(audio) for audio in rows["audio"]]
    padding = {} if name in ("whisper", "ast") else {"padding": True}
    wanted = extractor(waveforms, sampling_rate=16_000, return_tensors="pt", **padding)
    inputs = [column for column in extractor.model_input_names if column in wanted]
    assert sorted(batch) == sorted([*inputs, "labels"])
    assert batch["labels"].tolist() == [2, 0, 1]
    for column in inputs:
        values = batch[column] if column != "attention_mask" else batch[column].to(wanted[column])
        torch.testing.assert_close(values, wanted[column], atol=1e-4, rtol=1e-4)


def test_without_a_mask_each_waveform_is_normalised_alone():
    """As in the example scripts. In a batch of its own, this extractor normalises the padding."""
    extractor, rows = Wav2Vec2FeatureExtractor(), utterances()
    prepared = prepare(rows, extractor, labels=[0] * 3)
    batch = SpeechCollator(extractor)([prepared[number] for number in range(3)])
    assert sorted(batch) == ["input_values", "labels"]
    for padded, audio in zip(batch["input_values"], rows["audio"]):
        waveform = torch.from_numpy(decode_audio(audio))
        wanted = (waveform - waveform.mean()) / waveform.std(correction=0)
        torch.testing.assert_close(padded[: len(wanted)], wanted, atol=1e-3, rtol=1e-3)
        assert not padded[len(wanted) :].any()


def test_audio_of_another_rate_is_resampled_to_the_extractors(ctc):
    ctc.feature_extractor = Wav2Vec2FeatureExtractor(sampling_rate=8_000)
    prepared = prepare(utterances([0.5], rate=24_000), ctc)
    assert prepared[0]["input_values"].shape == (4_000,)
    assert prepared[0]["duration"] == pytest.approx(0.5)


def test_further_columns_are_kept():
    rows = utterances().add_column("intent", ["on", "off", "on"])
    assert prepare(rows, EXTRACTORS["speecht5"], labels=[1, 0, 1])["intent"][:] == rows["intent"][:]


class TestLabels:
    def test_labels_of_a_ctc_model_are_prepared_and_padded(self, ctc):
        prepared = prepare(utterances([0.3, 0.4]), ctc)
        wanted = ctc.tokenizer("TWO THREE").input_ids
        assert prepared["labels"][:] == [wanted, wanted] and 4 in wanted
        batch = SpeechCollator(ctc)([{**prepared[0], "labels": wanted[:3]}, prepared[1]])
        assert batch["labels"].tolist() == [wanted[:3] + [-100] * 6, wanted]

    def test_an_end_token_is_added_once(self, ctc):
        prepared = prepare(utterances([0.3]), ctc, end_token=2)
        assert prepared[0]["labels"] == [*ctc.tokenizer("TWO THREE").input_ids, 2]

    def test_unknown_characters_are_named(self, ctc, caplog):
        rows = Dataset.from_list(
            [row("good", noise(), text="TWO")] + [row("bad", noise(), text="ZWEI ÖRTE")]
        ).cast_column("audio", Audio(decode=False))
        with pytest.raises(
            ValueError, match="utterance bad .* unknown to the tokenizer: 'I' 'Z' 'Ö'; its letters"
        ):
            prepare(rows, ctc)
        with caplog.at_level(logging.WARNING):
            kept = prepare(rows, ctc, skip_bad_labels=True)
        assert (
            kept["id"][:] == ["good"]
            and "skipped 1 of 2 utterances with transcripts" in caplog.text
        )

    def test_labels_longer_than_the_frames_are_named(self, ctc):
        # THREE needs a blank between its two E: 6 frames for 5 letters
        rows = utterances([0.5], text="THREE")
        assert len(prepare(rows, ctc, frames_of=lambda length: 6)) == 1
        with pytest.raises(
            ValueError, match="utterance u0 has labels that need 6 frames, but .* the model 5"
        ):
            prepare(rows, ctc, frames_of=lambda length: length // 1_600)
        with pytest.raises(ValueError, match="all 1 utterances have transcripts that the model"):
            prepare(rows, ctc, frames_of=lambda length: 5, skip_bad_labels=True)

    def test_frames_are_counted_by_the_mask(self, ctc):
        for ctc.feature_extractor, length in (
            (EXTRACTORS["parakeet"], 50),
            (EXTRACTORS["wav2vec2 with layer norm"], 8_000),
            (EXTRACTORS["speech2text"], 48),
        ):
            prepared = prepare(utterances([0.5]), ctc)
            assert input_lengths(prepared, ctc.feature_extractor.model_input_names) == [length]


def noise() -> np.ndarray:
    return 0.1 * np.random.default_rng(0).normal(size=8_000).astype(np.float32)


class TestBadAudio:
    def test_silence_has_no_transcript(self, ctc):
        silent = Dataset.from_list([row("s", np.zeros(8_000, np.float32))])
        silent = silent.cast_column("audio", Audio(decode=False))
        with pytest.raises(ValueError, match="utterance s: the audio of s.wav is silent"):
            prepare(silent, ctc)
        # but it may be a class
        assert not prepare(silent, ctc, labels=[1])[0]["input_values"].any()
        with pytest.raises(ValueError, match="Speech2TextFeatureExtractor makes NaN"):
            prepare(silent, EXTRACTORS["speech2text"], labels=[1])

    def test_audio_longer_than_the_model_takes_is_refused(self):
        assert longest_audio(EXTRACTORS["whisper"]) == 1
        assert longest_audio(EXTRACTORS["ast"]) == 1
        assert longest_audio(EXTRACTORS["speech2text"]) is None
        config = Speech2TextConfig(max_source_positions=300)
        assert longest_audio(EXTRACTORS["speech2text"], config) == 3
        with pytest.raises(ValueError, match="is 1.2 s long, over the 1 s that the model takes"):
            prepare(utterances([1.2]), EXTRACTORS["ast"], labels=[0])
        with pytest.raises(ValueError, match="is 0.6 s long, over the 0.5 s"):
            prepare(utterances(), EXTRACTORS["speecht5"], labels=[0] * 3, longest=0.5)

    def test_the_shortest_audio_fills_one_frame(self, ctc, caplog):
        """The first frame of a wav2vec 2.0 takes 400 samples."""
        waveforms = EXTRACTORS["wav2vec2 with layer norm"]
        small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
        wav2vec2 = Wav2Vec2Config(**small, num_hidden_layers=1, conv_dim=(8,) * 7)
        moonshine = MoonshineConfig(**small, encoder_num_attention_heads=2)
        for config, model in ((wav2vec2, Wav2Vec2Model), (moonshine, MoonshineModel)):
            samples = round(shortest_audio(waveforms, config) * 16_000)
            count = model(config)._get_feat_extract_output_lengths
            assert [int(count(torch.tensor(n))) for n in (samples - 1, samples)] == [0, 1]
        shortest = shortest_audio(waveforms, wav2vec2)
        assert shortest == 0.025 < shortest_audio(waveforms, SEWConfig())
        assert shortest_audio(EXTRACTORS["parakeet"], wav2vec2) is None
        rows = utterances([0.3, 399 / 16_000, 400 / 16_000])
        with pytest.raises(ValueError, match="utterance u1 is 0.0249 s long, under the 0.025"):
            prepare(rows, ctc, labels=[0] * 3, shortest=shortest)
        for store in ("float32", None):
            how = {"shortest": shortest, "skip_bad_audio": True, "store": store}
            kept = prepare(rows, ctc, labels=[0, 1, 2], **how)
            assert kept["labels"][:] == [0, 2] and kept[1]["input_values"].shape == (400,)
        assert caplog.text.count("skipped 1 of 3 utterances with broken, empty, silent") == 2
        with pytest.raises(ValueError, match="u0: Speech2TextFeatureExtractor cannot take 80 "):
            prepare(utterances([0.005]), EXTRACTORS["speech2text"], labels=[0])

    def test_the_longest_label_is_read_from_the_configuration(self):
        assert longest_label(Speech2TextConfig(max_target_positions=20)) == 20
        assert longest_label(MoonshineConfig(max_position_embeddings=30)) == 30
        assert longest_label(Wav2Vec2Config()) is None
        # Its decoder has a configuration of its own.
        composed = SpeechEncoderDecoderConfig.from_encoder_decoder_configs(
            Wav2Vec2Config(), BartConfig(max_position_embeddings=40)
        )
        assert longest_label(composed) == 40

    def test_a_format_that_soundfile_cannot_read_names_what_is_missing(self, monkeypatch):
        mp4 = b"\x00\x00\x00\x20ftypM4A " + bytes(100)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ValueError, match="cannot decode the audio of a.m4a: .*pip install"):
            decode_audio({"bytes": mp4, "path": "a.m4a"})

    def test_a_torchcodec_that_does_not_load_says_how_to_install_it(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
        monkeypatch.setattr("torch.version.cuda", None)
        # A module that is None cannot be imported.
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
        with pytest.raises(ValueError, match="torchcodec does not load: .*whl/cpu"):
            decode_audio({"bytes": b"an m4a file", "path": None})

    def test_torchcodec_decodes_what_soundfile_cannot(self, monkeypatch):
        class AudioDecoder:
            def __init__(self, source: bytes):
                if source == b"no audio":
                    raise RuntimeError("Could not open\nmore")

            def get_all_samples(self) -> SimpleNamespace:
                stereo = torch.stack([torch.full((800,), 0.5), torch.zeros(800)])
                return SimpleNamespace(data=stereo, sample_rate=16_000)

        decoders = SimpleNamespace(AudioDecoder=AudioDecoder)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
        monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(decoders=decoders))
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
        waveform = decode_audio({"bytes": b"an m4a file", "path": None})
        np.testing.assert_array_equal(waveform, np.full(800, 0.25, np.float32))
        with pytest.raises(ValueError, match=r"[^)] \(soundfile\); Could not open \(torchcodec\)"):
            decode_audio({"bytes": b"no audio", "path": None})

    @pytest.mark.parametrize(("name", "rate"), [("a.m4a", 22_050), ("a.webm", 48_000)])
    def test_files_that_torchcodec_itself_has_written(self, tmp_path, name, rate):
        """A tone of 440 Hz on one of two channels, with any torchcodec that loads here."""
        try:
            from torchcodec.encoders import AudioEncoder
        except Exception as error:
            pytest.skip(f"no torchcodec: {error}")
        tone = torch.sin(2 * torch.pi * 440 * torch.arange(rate) / rate)
        AudioEncoder(torch.stack([tone, 0 * tone]), sample_rate=rate).to_file(tmp_path / name)
        for content in (None, (tmp_path / name).read_bytes()):
            waveform = decode_audio({"bytes": content, "path": str(tmp_path / name)})
            assert abs(len(waveform) - 16_000) < 1_600
            spectrum = np.abs(np.fft.rfft(waveform[:16_000], 16_000))
            assert abs(int(spectrum.argmax()) - 440) <= 1
            assert np.abs(waveform[4_000:12_000]).max() == pytest.approx(0.5, abs=0.05)
