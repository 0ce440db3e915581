"""Synthesises the demo's speech: distinct espeak-ng voices that read random word sequences.

    python recipes/demo/voices.py voices    # 12 voices x (48 training + 14 test utterances)

takes about ten seconds and writes an audiofolder: `voices/metadata.csv` (file_name, speaker, text,
split) beside the flac files. The same seed gives the same audio. espeak-ng comes with the PyPI
package `espeakng-loader`; an espeak-ng of the system is not used.
"""

import argparse
import csv
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import espeakng_loader
import librosa
import numpy as np
import soundfile
from tqdm.auto import tqdm

SAMPLING_RATE = 16_000
# No number words: Whisper's English normaliser would write "two four" as the one word "24".
WORDS = (
    "red green blue white yellow orange up down left right stop go "
    "open close day night water fire house garden river mountain market window"
).split()
# espeak-ng's C interface: speak_lib.h
SYNCHRONOUS, DONT_EXIT, UTF8, RATE, VOLUME, PITCH, RANGE = 2, 0x8000, 1, 1, 2, 3, 4
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Voice:
    """One speaker: the espeak-ng voice `accent+variant`, its rate in words per minute, and its
    pitch and pitch range, both 0 to 100."""

    name: str
    accent: str
    variant: str
    rate: int
    pitch: int
    range: int


VOICES = (
    Voice("anna", "en-us", "f2", 195, 62, 55),
    Voice("bruno", "en-gb-scotland", "m3", 175, 30, 40),
    Voice("clara", "en-gb-x-rp", "f4", 210, 70, 65),
    Voice("david", "en-029", "m7", 200, 45, 60),
    Voice("elena", "en-us-nyc", "Annie", 185, 55, 45),
    Voice("felix", "en", "klatt2", 190, 40, 50),
    Voice("grace", "en-us", "grandma", 175, 50, 35),
    Voice("hugo", "en-gb-x-gbclan", "Gene", 205, 25, 50),
    Voice("irene", "en", "linda", 220, 58, 70),
    Voice("jonas", "en-us", "croak", 190, 35, 30),
    Voice("karin", "en-gb-x-gbcwmd", "steph", 200, 66, 50),
    Voice("louis", "en-us", "robosoft3", 185, 48, 20),
)


class Synthesizer:
    """Turns text into audio samples. The library's state is global: make only one at a time in a
    process."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path()
        self.rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), DONT_EXIT)
        if self.rate <= 0:
            raise RuntimeError(
                f"espeak-ng cannot read its data in {data}: its paths may have at most 160 "
                "characters. Install this package into an environment with a shorter path."
            )
        # Without a seed, espeak-ng's noise depends on the time.
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self.samples = []
        # Kept as an attribute, because the C library holds no reference to it.
        self.callback = CALLBACK(self._receive)
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples: ctypes.Array, count: int, events: int | None) -> int:
        if samples and count:
            self.samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        # Tells espeak-ng to continue.
        return 0

    def use(self, voice: Voice) -> None:
        """Switches to a voice.

        Raises:
            ValueError: espeak-ng does not have it.
        """
        name = f"{voice.accent}+{voice.variant}"
        if self.library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(
                f"espeak-ng has no voice {name!r}: see lang/ and voices/!v/ in its data folder."
            )
        for parameter, value in ((RATE, voice.rate), (PITCH, voice.pitch), (RANGE, voice.range)):
            self.library.espeak_SetParameter(parameter, value, 0)

    def speak(self, text: str) -> np.ndarray:
        """Returns float32 samples in [-1, 1] at `self.rate` Hz."""
        self.samples = []
        encoded = text.encode()
        self.library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, UTF8, None, None
        )
        return np.concatenate(self.samples).astype(np.float32) / 2**15


def record(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Turns clean samples into a recording: trimmed, at 16 kHz, with random level, pauses and noise
    floor."""
    samples = librosa.resample(samples, orig_sr=rate, target_sr=SAMPLING_RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    before, after = rng.integers(SAMPLING_RATE // 20, SAMPLING_RATE // 8, size=2)
    samples = np.pad(samples / np.abs(samples).max() * rng.uniform(0.3, 0.8), (before, after))
    return samples + rng.normal(0, 10 ** rng.uniform(-4, -3), samples.shape)


def draw_sentences(count: int, rng: np.random.Generator, used: set[str]) -> list[str]:
    """Draws `count` sequences of 2 to 5 words that are not in `used`, and adds them to it."""
    sentences = []
    while len(sentences) < count:
        sentence = " ".join(rng.choice(WORDS, size=rng.integers(2, 6)))
        if sentence not in used:
            used.add(sentence)
            sentences.append(sentence)
    return sentences


def write_voices(
    folder: str | Path,
    *,
    voices: Sequence[Voice] = VOICES,
    train: int = 48,
    test: int = 14,
    seed: int = 0,
) -> Path:
    """Writes an audiofolder with `train` and `test` utterances of each voice. No sentence occurs
    twice.

    Raises:
        ValueError: espeak-ng has no such voice.
    """
    folder, used, rows, synthesizer = Path(folder), set(), [], Synthesizer()
    for number, voice in enumerate(tqdm(voices, desc="voices", unit="voice")):
        synthesizer.use(voice)
        rng = np.random.default_rng([seed, number])
        for split, count in (("train", train), ("test", test)):
            (folder / split / voice.name).mkdir(parents=True, exist_ok=True)
            for i, text in enumerate(draw_sentences(count, rng, used)):
                name = f"{split}/{voice.name}/{i:03d}.flac"
                audio = record(synthesizer.speak(text), synthesizer.rate, rng)
                soundfile.write(folder / name, audio, SAMPLING_RATE)
                rows.append((name, voice.name, text, split))
    with open(folder / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "speaker", "text", "split"), *rows])
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="where to write the audiofolder")
    parser.add_argument(
        "--voices", type=int, default=len(VOICES), help="how many voices, from the start of VOICES"
    )
    parser.add_argument("--train", type=int, default=48, help="training utterances of each voice")
    parser.add_argument("--test", type=int, default=14, help="test utterances of each voice")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_voices(
        args.folder, voices=VOICES[: args.voices], train=args.train, test=args.test, seed=args.seed
    )


if __name__ == "__main__":
    main()
