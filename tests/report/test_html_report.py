"""The HTML report is complete and self-contained, names nobody, and works in a browser."""

import re
import shutil
import subprocess
from dataclasses import replace

import PIL.Image
import pytest

from hf_unlearn.report.frontier_svg import frontier, ticks
from hf_unlearn.report.html_page import Report, word_differences
from hf_unlearn.report.results import Results
from hf_unlearn.report.tasks import TASKS


def metrics(wer):
    return {"samples": 2, "loss": 1.0, "wer": wer}


RESULTS = Results.from_dict(
    {
        "task": "speakers",
        "config": {"data": {"forget_speakers": ["anna"]}, "trainer": {"method": "npo"}},
        "method_settings": {"alpha": 0.5, "beta": 0.5},
        "data": {
            "utterances": {"forget": 2, "retain": 3},
            "speakers": {"forget": ["anna"], "retain": ["boris"]},
        },
        "seed": 0,
        "original": {"forget": metrics(10.0), "test": metrics(12.0)},
        "unlearned": {"forget": metrics(90.0), "test": metrics(15.0)},
        "retrained": {"forget": metrics(60.0), "test": metrics(11.0)},
        "stopping": {
            "step": 4,
            "reason": "target reached",
            "rule": "forget_wer >= 60",
            "value": 90.0,
            "abort_rule": None,
        },
        "attacks": {"unlearned": {"loss_auc": 0.5}},
        "command": "python unlearn.py demo.yaml",
        "history": [
            {"step": 0, "check_forget_wer": 10.0, "check_test_wer": 12.0},
            {"step": 4, "check_forget_wer": 90.0},
            {"step": 4, "check_test_wer": 15.0},
        ],
        "per_speaker": {
            "original": {"forget": {"anna": 10.0}},
            "unlearned": {"forget": {"anna": 90.0}, "test": {"boris": 15.0}},
        },
        "transcripts": {
            "forget": [
                {
                    "id": "anna/1.flac",
                    "reference": "open the <window> now",
                    "models": {"original": "open the <window> now", "unlearned": "open a garden"},
                }
            ]
        },
    }
)


@pytest.mark.parametrize("values", [[0.0, 0.0], [5, 61.2], [-0.3, 0.2], [-2, -1]])
def test_ticks_span_all_values(values):
    marks = ticks(values)
    assert marks[0] <= min(values) and marks[-1] >= max(values) and marks[-1] > marks[0]


def test_wrong_and_missing_words_are_marked():
    assert list(word_differences("open the window now", "open a garden now please")) == [
        ("same", "open"),
        ("left out", "the window"),
        ("wrong", "a garden"),
        ("same", "now"),
        ("wrong", "please"),
    ]
    assert list(word_differences("stop", "")) == [("left out", "stop")]


def test_page_has_everything_and_no_name():
    page = Report(RESULTS, "salt", {"anna/1.flac": b"RIFF"}).html()
    assert "anna" not in page and "boris" not in page
    for said in (
        "90.0",
        "target reached",
        "<code>beta=0.5</code>",
        "<ins>a garden</ins>",
        "&lt;window&gt;",
        "data:audio/wav;base64,UklGRg==",
        "<svg",
        "(the retrained model&#39;s value)</code>; reached 90",
        "forget overshot: WER (%) 90.0 against 60.0",
        "<code>retain</code>: retain set, 3 utterances",
        "<code>loss_auc</code>: AUC of telling",
        "<code>python unlearn.py demo.yaml</code>",
        "words of the forgotten speakers: do not pass this page on",
    ):
        assert said in page, said
    # texts of the data are never markup
    assert "<window>" not in page
    assert "anna" in Report(RESULTS).html()


def test_a_notebook_shows_the_page_in_a_frame():
    shown = Report(RESULTS, "salt")._repr_html_()
    # the page is escaped, so that it does not end the attribute
    assert shown.startswith("<iframe srcdoc=") and shown.count('"') == 4


def test_page_needs_no_network():
    page = Report(RESULTS, "salt").html()
    assert not re.search(r"(?:src|href|url\()\W*(?:https?:)?//", page) and "<script" not in page


def test_a_run_that_was_not_evaluated_is_said_to_be():
    bare = Results(task="data", data={"samples": {"forget": 3}})
    assert str(Report(bare)) == "not evaluated" and "forget 3 samples" in Report(bare).html()
    assert "90.0" in str(Report(RESULTS))


def test_frontier_is_drawn_to_scale():
    drawn = frontier(RESULTS, TASKS["speakers"])
    places = {name: (x, y) for x, y, name in drawn["models"]}
    (x0, _), (x1, _) = drawn["x_ticks"][0], drawn["x_ticks"][-1]
    assert drawn["x_ticks"][-1][1] == "100"
    assert places["unlearned"][0] == pytest.approx(x0 + 0.9 * (x1 - x0), abs=0.2)
    # more errors: higher up
    assert places["unlearned"][1] < places["original"][1]
    assert drawn["x_label"] == "WER (%) – forgotten speaker"
    assert drawn["y_label"] == "WER (%) – retained speakers, unseen"
    assert [step for *_, step in drawn["path"]] == [0, 4]
    assert frontier(replace(RESULTS, history=[]), TASKS["speakers"]) is None


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
@pytest.mark.parametrize(
    ("dark", "ground"), [(False, (255, 255, 255)), (True, (22, 22, 22))], ids=["light", "dark"]
)
def test_a_browser_shows_it_in_light_and_dark(dark, ground, tmp_path):
    page = Report(RESULTS, "salt").save(tmp_path / "report.html")
    picture = tmp_path / "shot.png"
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1000,1400",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--screenshot={picture}",
    ]
    command += [
        "--blink-settings=preferredColorScheme=0"
        if dark
        else "--blink-settings=preferredColorScheme=1"
    ]
    subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=60)
    image = PIL.Image.open(picture).convert("RGB")
    assert image.getpixel((500, 3)) == ground
    # text, lines and marks in more than one colour
    assert len(image.getcolors(10**6)) > 50
