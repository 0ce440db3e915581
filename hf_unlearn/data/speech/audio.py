"""Decodes audio files to waveforms."""

import importlib.util
import io
import math

import librosa
import numpy as np
import soundfile
import torch

from ...files import first_line

# in Hz
SAMPLING_RATE = 16_000


def decode_audio(audio: dict, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Decodes {"bytes", "path"} to a mono float32 waveform (samples,) at `sampling_rate` Hz.

    Channels are averaged before resampling. soundfile decodes wav, flac, mp3 and ogg. What it
    cannot decode (m4a, mp4, webm), torchcodec decodes where it is installed.

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
            if not file.seek(0, io.SEEK_END):
                raise ValueError(f"the audio of {name} is empty")
            file.seek(0)
            # (samples, channels)
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except OSError as error:
        raise ValueError(f"cannot open the audio of {name}: {error.strerror}") from None
    except soundfile.LibsndfileError as error:
        samples, rate = _decode_with_torchcodec(audio, error.error_string)
    if samples.size == 0:
        raise ValueError(f"the audio of {name} is empty")
    if not np.isfinite(samples).all():
        raise ValueError(f"the audio of {name} has samples that are NaN or infinite")
    waveform = samples.mean(axis=1)
    if rate == sampling_rate:
        return waveform
    return librosa.resample(waveform, orig_sr=rate, target_sr=sampling_rate)


def audio_seconds(audio: dict, sampling_rate: int, longest: float | None = None) -> float:
    """The duration of {"bytes", "path"} in seconds, after resampling, as the file's header says it.
    The audio itself is not decoded, where soundfile knows its format.

    Args:
        longest: the longest audio accepted, in seconds.

    Raises:
        ValueError: the file is missing, not audio, empty or longer.
    """
    source = audio["path"] if audio["bytes"] is None else io.BytesIO(audio["bytes"])
    try:
        header = soundfile.info(source) if source else None
    except (OSError, soundfile.LibsndfileError):
        header = None
    if header is None or not header.frames:
        # Decodes it, or says what is wrong.
        return len(decode_chunk(audio, sampling_rate, longest)) / sampling_rate
    # as many samples as resampling gives
    samples = math.ceil(header.frames * sampling_rate / header.samplerate)
    return _accepted(audio, samples / sampling_rate, longest)


def _accepted(audio: dict, seconds: float, longest: float | None) -> float:
    """The duration, if a model takes it.

    Raises:
        ValueError: it is too long.
    """
    if longest is not None and seconds > longest:
        raise ValueError(
            f"the audio of {_name(audio)} is {seconds:.1f} s long, over the {longest:g} s that the "
            "model takes"
        )
    return seconds


def _decode_with_torchcodec(audio: dict, refusal: str) -> tuple[np.ndarray, int]:
    """Samples (samples, channels) and sampling rate of audio that soundfile cannot decode.

    Args:
        refusal: why soundfile cannot.

    Raises:
        ValueError: torchcodec is missing, or cannot decode the audio either.
    """
    problem = f"cannot decode the audio of {_name(audio)}: {refusal.rstrip('.')} (soundfile)"
    if importlib.util.find_spec("torchcodec") is None:
        raise ValueError(f"{problem}. For m4a, mp4 and webm {_how_to_install_torchcodec()}")
    try:
        from torchcodec.decoders import AudioDecoder
    # ImportError, OSError or RuntimeError, by the version of torchcodec and what is missing.
    except Exception as error:
        # Without FFmpeg, a list of causes follows in other lines.
        reason = first_line(error).removesuffix("Likely causes:").rstrip(". ")
        raise ValueError(
            f"{problem}, and torchcodec does not load: {reason}. To load it, "
            f"{_how_to_install_torchcodec()}"
        ) from None
    try:
        source = audio["path"] if audio["bytes"] is None else audio["bytes"]
        decoded = AudioDecoder(source).get_all_samples()
    # ValueError or RuntimeError
    except Exception as error:
        raise ValueError(f"{problem}; {first_line(error)} (torchcodec)") from None
    return decoded.data.numpy().T, decoded.sample_rate


def _how_to_install_torchcodec() -> str:
    # The builds for Linux on PyPI load only beside a torch with CUDA.
    index = "" if torch.version.cuda else " --index-url https://download.pytorch.org/whl/cpu"
    return (
        f"install FFmpeg with its shared libraries, and torchcodec (pip install torchcodec{index})"
    )


def decode_chunk(
    audio: dict,
    sampling_rate: int,
    longest: float | None = None,
    allow_silence: bool = True,
    *,
    cut: float | None = None,
) -> np.ndarray:
    """Decodes an utterance that a model takes as a whole to a waveform (samples,).

    Args:
        longest: the longest audio accepted, in seconds.
        cut: the seconds after which longer audio is cut first.

    Raises:
        ValueError: as `decode_audio` does; or the audio is longer, or silent.
    """
    waveform = decode_audio(audio, sampling_rate)
    if cut is not None:
        waveform = waveform[: round(cut * sampling_rate)]
    _accepted(audio, len(waveform) / sampling_rate, longest)
    if not allow_silence and np.ptp(waveform) == 0:
        raise ValueError(f"the audio of {_name(audio)} is silent: all of its samples are equal")
    return waveform


def _name(audio: dict) -> str:
    return audio["path"] or "embedded bytes"
