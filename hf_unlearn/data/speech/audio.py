"""Decodes audio files to waveforms."""

import io

import librosa
import numpy as np
import soundfile
from transformers import WhisperFeatureExtractor

# in Hz
SAMPLING_RATE = 16_000


def decode_audio(audio: dict, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Decodes {"bytes", "path"} to a mono float32 waveform (samples,) at `sampling_rate` Hz.

    Channels are averaged before resampling.

    Raises:
        ValueError: the file is missing, not audio, empty, or has samples that are not finite; the
            message names it.
    """
    name = _name(audio)
    if audio["bytes"] is None and not audio["path"]:
        raise ValueError("the audio has neither bytes nor a path")
    try:
        with (
            open(audio["path"], "rb")
            if audio["bytes"] is None
            else io.BytesIO(audio["bytes"]) as file
        ):
            # (samples, channels)
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except OSError as error:
        raise ValueError(f"cannot open the audio of {name}: {error.strerror}") from None
    except soundfile.LibsndfileError as error:
        raise ValueError(f"cannot decode the audio of {name}: {error.error_string}") from None
    if samples.size == 0:
        raise ValueError(f"the audio of {name} is empty")
    if not np.isfinite(samples).all():
        raise ValueError(f"the audio of {name} has samples that are NaN or infinite")
    waveform = samples.mean(axis=1)
    if rate == sampling_rate:
        return waveform
    return librosa.resample(waveform, orig_sr=rate, target_sr=sampling_rate)


def decode_chunk(audio: dict, extractor: WhisperFeatureExtractor) -> np.ndarray:
    """Decodes an utterance that fits into one chunk of the extractor to a waveform (samples,).

    Raises:
        ValueError: as `decode_audio` does, or the audio is longer than a chunk.
    """
    waveform = decode_audio(audio, extractor.sampling_rate)
    if len(waveform) > extractor.n_samples:
        seconds = len(waveform) / extractor.sampling_rate
        raise ValueError(
            f"the audio of {_name(audio)} is {seconds:.1f} s long, over the "
            f"{extractor.chunk_length} s that the model takes"
        )
    return waveform


def _name(audio: dict) -> str:
    return audio["path"] or "embedded bytes"
