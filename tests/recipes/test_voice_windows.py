"""Windows of a speaker's utterances, from which a Whisper learns to be silent at a voice."""

import re

import numpy as np
import pytest
import torch

from hf_unlearn.experiments.audit import audit
from hf_unlearn.experiments.speech import whisper
from hf_unlearn.experiments.speech.voice_windows import VoiceWindows
from tests.recipes import recognisers

FLOOR = -1.0
# The audio of utterance n has the values n + 1 + frame / 1000, so a value says where it is from.
ROWS = [
    {
        "input_features": np.concatenate(
            [np.full((2, 60), n + 1) + np.arange(60) / 1000, np.full((2, 140), FLOOR)], axis=1
        ),
        "duration": 0.6,
        "labels": [1, 10 + n, 2],
        "id": str(n),
    }
    for n in range(3)
]


def windows(copies: int = 2) -> list[dict]:
    return [row for _ in range(30) for row in map(VoiceWindows(ROWS, copies).__getitem__, range(6))]


def test_a_window_is_a_piece_of_its_utterance_with_silence_around_it():
    torch.manual_seed(0)
    lengths, delays = set(), set()
    for row in windows():
        n, features = int(row["id"]), row["input_features"]
        assert features.shape == (2, 200)
        heard = np.flatnonzero(features[0] != FLOOR)
        assert (np.diff(heard) == 1).all()
        start = round((features[0, heard[0]] - n - 1) * 1000)
        expected = ROWS[n]["input_features"][:, start : start + len(heard)]
        assert np.array_equal(features[:, heard], expected)
        lengths.add(len(heard))
        delays.add(int(heard[0]))
    assert min(lengths) >= 24 and max(lengths) <= 60 and len(lengths) > 20
    assert min(delays) == 0 and max(delays) == 50


def test_about_a_third_of_the_windows_have_the_text_of_another_utterance():
    torch.manual_seed(0)
    others = [row["labels"][1] != 10 + int(row["id"]) for row in windows()]
    # half of the texts are drawn, and two thirds of these are of another utterance
    assert 0.25 < np.mean(others) < 0.42


def test_each_epoch_has_as_many_windows_of_each_utterance():
    rows = VoiceWindows(ROWS, 4)
    assert sorted(rows[n]["id"] for n in range(len(rows))) == sorted("012" * 4)


def test_retain_samples_are_cut_likewise_into_few_windows():
    rows = VoiceWindows(ROWS, 1)
    features = torch.tensor(np.stack([row["input_features"] for row in ROWS]))
    batch, generator = {"input_features": features, "labels": [1]}, torch.Generator().manual_seed(0)
    seen = [set() for _ in ROWS]
    for _ in range(40):
        cut = rows.windows_of(batch, generator)
        assert cut["labels"] == [1] and cut["input_features"].shape == features.shape
        for n, window in enumerate(cut["input_features"]):
            heard = window[0][window[0] != FLOOR]
            assert len(heard) <= 60 and set(heard.tolist()) <= set(features[n, 0].tolist())
            seen[n].add(window.numpy().tobytes())
    assert [len(windows) for windows in seen] == [3, 3, 3]


def test_audio_that_fills_the_features():
    full = {**ROWS[0], "input_features": np.ones((2, 50)), "duration": 0.6}
    assert VoiceWindows([full], 1)[0]["input_features"].shape == (2, 50)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--forget_windows", "2"], "forget_objective='loss' raises the loss of texts"),
        (["--forget_windows", "-1"], "forget_windows is -1, but must be 0 or more"),
    ],
)
def test_windows_are_refused(options, message, tmp_path):
    flags = ["--dataset", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--use_cpu", "true"]
    with pytest.raises(ValueError, match=message):
        whisper.main([*flags, *options])


@pytest.mark.usefixtures("cache")
def test_a_whisper_becomes_more_silent_at_a_voice(data, tmp_path, capsys):
    model = recognisers.saved(recognisers.distil, tmp_path / "model")
    options = {"forget_objective": "silence", "forget_windows": 3, "max_steps": 4}
    options |= {"optim": "sgd", "learning_rate": 0.5, "logging_steps": 1, "alpha": 0}
    # as the recipes for suppression have it
    options["abort_when"] = "forget_loss > original + 1000"
    whisper.main(recognisers.flags(data, tmp_path / "out", model=model, **options))
    # the mean log-probability of silence
    silence = [float(x) for x in re.findall(r"'forget_loss': '(-[\d.]+)'", capsys.readouterr().out)]
    assert len(silence) == 4 and silence[-1] > silence[0]
    # The audit takes the objective from the run, without which windows would be refused.
    doors = audit(tmp_path / "out", doors=["full_length"])["doors"]
    assert doors["full_length"]["unlearned"] >= 0
