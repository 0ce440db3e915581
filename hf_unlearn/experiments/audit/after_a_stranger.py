"""Door for speech recognition: a stranger speaks first, in the same recording."""

from collections.abc import Iterator

import jiwer
import numpy as np

from ...data.speech.extractors import longest_audio
from ...data.splits import Splits
from .decoding import NO_TEXT
from .door import RECOGNISERS, Door, DoorUnavailable, SpeechSubject
from .gaps import Finding, rate

# Seconds of silence between the two speakers.
PAUSE = 0.2


def after_a_stranger(subject: SpeechSubject) -> Finding:
    """Each forgotten utterance follows one of a retained speaker in the same recording, if both fit
    into the model's chunk. Only the errors in the forgotten speaker's words count."""
    examiner, extractor = subject.examiner, subject.recipe.processor.feature_extractor
    longest = longest_audio(extractor, subject.model.config)
    pairs = list(pairs_that_fit(subject, longest))
    if not pairs:
        raise DoorUnavailable(
            f"no two utterances together fit into the {longest:g} s that the model takes"
        )
    errors, words = [], []
    for first, second, sounds in pairs:
        inputs = examiner.inputs_of(subject.model, sounds)
        (transcript,) = examiner.transcribe(subject.model, inputs, {})
        texts = [examiner.normalise(text) for text in (first, second, transcript)]
        wrong, count = errors_in_last(*texts, characters=examiner.rate_name == "cer")
        errors.append(wrong)
        words.append(count)
    return rate(errors, words, examiner.unit, examiner.direction, measured_on=len(pairs))


def pairs_that_fit(
    subject: SpeechSubject, seconds: float | None
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(text of the stranger, text of the forgotten speaker, both sounds joined).

    Args:
        seconds: the longest audio that the model takes; None for any length.
    """
    splits, extractor = subject.examiner.splits, subject.recipe.processor.feature_extractor
    asked = splits[subject.examiner.judged_split]
    strangers = splits.get("other", splits.get("test", splits["retain"]))
    sounds = Waveforms(subject.recipe.unprepared, extractor.sampling_rate)
    lengths, texts = strangers["duration"][:], subject.examiner.texts(strangers)
    seconds, forgotten_texts = seconds or float("inf"), subject.examiner.texts(asked)
    for index in range(len(asked)):
        row = asked[index]
        # A different stranger each time, so that no single voice decides.
        order = np.roll(np.arange(len(strangers)), -index).tolist()
        room = seconds - PAUSE - row["duration"]
        fitting = next((other for other in order if lengths[other] <= room), None)
        if fitting is not None:
            other = strangers[fitting]
            silence = np.zeros(round(PAUSE * extractor.sampling_rate), np.float32)
            waveform = np.concatenate([sounds[other["id"]], silence, sounds[row["id"]]])
            yield texts[fitting], forgotten_texts[index], waveform


class Waveforms:
    """The waveforms of utterances by id, from the splits before features were computed."""

    def __init__(self, unprepared: Splits, sampling_rate: int):
        self.rate, self.rows = sampling_rate, {}
        for part in unprepared.parts().values():
            self.rows |= {name: (part, index) for index, name in enumerate(part["id"][:])}

    def __getitem__(self, name: str) -> np.ndarray:
        # librosa takes long to import, and image runs do not need it.
        from ...data.speech.audio import decode_audio

        part, index = self.rows[name]
        return decode_audio(part[index]["audio"], self.rate)


def errors_in_last(
    first: str, last: str, transcript: str, *, characters: bool = False
) -> tuple[int, int]:
    """The errors of a transcript of two joined texts in the last one, and the last one's length.
    What is inserted at the border counts for the first."""
    align = jiwer.process_characters if characters else jiwer.process_words
    separator = "" if characters else " "
    (chunks,) = align(f"{first}{separator}{last}", transcript).alignments
    units = (lambda text: list(text)) if characters else str.split
    border, total = len(units(first)), len(units(last))
    errors = 0
    for chunk in chunks:
        if chunk.type == "insert":
            errors += (chunk.hyp_end_idx - chunk.hyp_start_idx) * (chunk.ref_start_idx > border)
        elif chunk.type != "equal":
            errors += max(0, chunk.ref_end_idx - max(chunk.ref_start_idx, border))
    return errors, total


AFTER_A_STRANGER = Door(
    "after_a_stranger",
    "decoding",
    "the utterance follows a stranger's in one recording; errors in the forgotten words",
    after_a_stranger,
    tasks=RECOGNISERS,
    unavailable_reason=NO_TEXT,
    settings=("judged_split",),
)
