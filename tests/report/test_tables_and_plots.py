"""The tables, the plots and results.json of a run."""

import json
import math
import os
import subprocess

import numpy as np
import PIL.Image
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation

from hf_unlearn.files import write_json
from hf_unlearn.report.environment import environment, git_commit
from hf_unlearn.report.plots import plot_history, plot_pictures
from hf_unlearn.report.result_tables import further_tables, results_table
from hf_unlearn.report.results import Results
from hf_unlearn.report.tasks import TASKS
from tests.support.pictures import size_of_drawing


def metrics(wer):
    return {
        "samples": 9,
        "loss": wer / 100,
        "wer": wer,
        "wer_low": wer - 1,
        "wer_high": wer + 2,
        "cer": wer / 2,
    }


RESULTS = {
    "original": {"test": metrics(10.0), "forget": metrics(1.25), "mine": metrics(3.0)},
    "unlearned": {"test": metrics(12.0), "forget": metrics(104.0)},
    "retrained": None,
}


def test_table_orders_splits_and_leaves_out_what_was_not_measured():
    wer, cer, loss = results_table(Results.from_dict(RESULTS)).split("\n\n")
    assert [line.split()[0] for line in wer.splitlines()[2:]] == ["forget", "test", "mine"]
    assert wer.splitlines()[0].split()[-2:] == ["original", "unlearned"]
    assert "104.0 [103.0, 106.0]" in wer and wer.splitlines()[-1].endswith("-")
    assert "52.0" in cer and "[" not in cer
    assert "1.040" in loss


def test_table_is_aligned_and_fits_100_columns():
    full = {split: metrics(123.456) for split in TASKS["speakers"].splits}
    lines = results_table(
        Results(original=full, unlearned=full, retrained=full), metrics=["wer"]
    ).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) < 100


def test_a_markdown_table_has_equal_columns():
    lines = results_table(Results.from_dict(RESULTS), metrics=["wer"], markdown=True).splitlines()
    assert {line.count("|") for line in lines} == {5}
    assert set(lines[1]) <= set("|-: ")


def test_table_without_results_is_refused():
    with pytest.raises(ValueError, match="of none of original, unlearned, retrained"):
        results_table(Results(original=None, seed=0))


def test_accuracies_of_a_forgotten_class_go_down_and_its_loss_up():
    splits = {"forget": {"accuracy": 3.0, "loss": 6.0}, "test": {"accuracy": 95.0, "loss": 0.1}}
    accuracy, loss = results_table(Results(task="classes", unlearned=splits)).split("\n\n")
    assert accuracy.splitlines()[0].split() == ["Accuracy", "(%)", "wanted", "unlearned"]
    assert [line.split()[:3] for line in accuracy.splitlines()[2:]] == [
        ["forget", "down", "3.0"],
        ["test", "stay", "95.0"],
    ]
    assert loss.splitlines()[2].split() == ["forget", "up", "6.000"]


def test_numbers_without_splits_stand_side_by_side():
    scores = {"retrained": {"uis": None, "aus": 0.5}, "original": {"uis": 3, "aus": 0.75123}}
    lines = further_tables(Results(scores=scores)).splitlines()
    assert [line.split() for line in lines if "--" not in line] == [
        ["Score", "wanted", "original", "retrained"],
        ["uis", "down", "3", "-"],
        ["aus", "up", "0.751", "0.5"],
    ]


def test_every_picture_is_drawn_with_its_text_under_its_heading(tmp_path, drawn):
    pictures = [(PIL.Image.new(mode, (4, 4)), f"{mode} is read") for mode in ("L", "RGB", "L")]
    plot_pictures(
        {"grey": pictures[:1], "all": pictures}, tmp_path / "grid.png", "Misread", columns=2
    )
    shown = [[axes.get_title() for axes in part.axes if axes.images] for part in drawn[0].subfigs]
    assert shown == [["L is read"], ["L is read", "RGB is read", "L is read"]]
    assert [part.get_suptitle() for part in drawn[0].subfigs] == ["grey", "all"]


HISTORY = [
    {"step": 5, "loss": 1.0},
    {"step": 10, "check_forget_wer": 20.0, "check_test_wer": 5.0},
    {"step": 20, "check_forget_wer": 90.0, "check_test_wer": 6.0, "check_retain_wer": None},
]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn during a test."""
    figures = []
    printed = FigureCanvasAgg.print_figure
    monkeypatch.setattr(
        FigureCanvasAgg,
        "print_figure",
        lambda self, *a, **k: figures.append(self.figure) or printed(self, *a, **k),
    )
    return figures


def test_the_plot_is_a_png_of_its_size(tmp_path):
    path = plot_history(HISTORY, tmp_path / "history.png", original=RESULTS["original"])
    assert size_of_drawing(path) == (1275, 720)


def test_plot_shows_curves_levels_and_wishes(tmp_path, drawn):
    models = {"original": RESULTS["original"], "retrained": {"forget": metrics(60.0)}}
    plot_history(HISTORY, tmp_path / "history.png", **models)
    axes = drawn[0].axes[0]
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert ([10, 20], [20.0, 90.0]) in lines and ([10, 20], [5.0, 6.0]) in lines
    levels = [ys[0] for xs, ys in lines if list(xs) == [0, 1]]
    assert sorted(levels) == [1.25, 10.0, 60.0]
    assert axes.get_xlabel() == "optimizer steps of unlearning"
    assert axes.get_ylabel() == "WER (%)"
    texts = " ".join(text.get_text() for text in axes.texts)
    assert "90 %, target: 60 %" in texts and "6 %, should not change" in texts
    assert "dashed: retrained without the speaker" in texts


def test_the_final_evaluation_ends_the_curves_and_single_dots_are_left_out(tmp_path, drawn):
    history = [{"step": 0, "check_retain_wer": 4.0, "check_forget_wer": 1.0}, *HISTORY]
    final = {"forget": metrics(80.0), "forget_test": metrics(70.0), "retain": metrics(0.0)}
    plot_history(history, tmp_path / "history.png", final=(30, final), check_samples=64)
    axes = drawn[0].axes[0]
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert ([0], [4.0]) not in lines
    assert [([30], [value]) in lines for value in (80.0, 70.0, 0.0)] == [True] * 3
    assert "checks on at most 64 samples; large markers: final evaluation" in axes.get_xlabel()
    texts = " ".join(text.get_text() for text in axes.texts)
    assert "80 %, should rise" in texts and "0 %, should not change" in texts


def test_the_wish_for_forgotten_data_is_the_retrained_models_value(tmp_path):
    rows = results_table(
        Results.from_dict({**RESULTS, "retrained": {"forget": metrics(60.0)}})
    ).splitlines()[2:4]
    assert ["as retrained" in row for row in rows] == [True, False] and "stay" in rows[1]


def test_labels_of_curves_that_end_together_do_not_overlap(tmp_path, drawn):
    plot_history(
        [{"step": 1, "check_forget_wer": 50.0, "check_test_wer": 50.0}], tmp_path / "history.png"
    )
    axes = drawn[0].axes[0]
    heights = sorted(text.xy[1] for text in axes.texts if isinstance(text, Annotation))
    assert heights[1] - heights[0] > 0.1 * axes.get_ylim()[1]


def test_plot_without_checks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="set check_steps"):
        plot_history([{"step": 1, "loss": 2.0}], tmp_path / "history.png")


def test_files_are_strict_json(tmp_path):
    path = tmp_path / "new" / "results.json"
    write_json(
        path,
        {
            "a": math.nan,
            "b": [np.float32(0.5), math.inf],
            "c": {1: path},
            "d": torch.tensor([1, 2]),
        },
    )
    assert json.loads(path.read_text()) == {
        "a": None,
        "b": [0.5, None],
        "c": {"1": str(path)},
        "d": [1, 2],
    }


def test_results_are_fields_and_a_file(tmp_path):
    results = Results(config={"seed": 1}, data={"samples": {}}, original=RESULTS["original"])
    results.transcripts, results.more["mine"] = {"forget": []}, 5
    results.write(tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == results.to_dict() == Results.read(tmp_path).to_dict()
    assert (written["transcripts"], written["mine"]) == ({"forget": []}, 5)
    assert written["retrained"] is None and "attacks" not in written


def test_results_with_few_and_with_other_keys_are_read(tmp_path):
    content = {"config": {"method": "npo"}, "data": {}, "unlearned": RESULTS["unlearned"]}
    content["gap"] = {"test": {"wer": 1.5}}
    (tmp_path / "results.json").write_text(json.dumps({**content, "mine": [1]}))
    results = Results.read(tmp_path)
    assert results.gap == content["gap"]
    assert (results.task, results.more, results.card) == ("speakers", {"mine": [1]}, {})
    assert results_table(results) == results_table(Results(unlearned=RESULTS["unlearned"]))


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"run": 1})
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        write_json(path, {"run": object()})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"run": 2})
    assert json.loads(path.read_text()) == {"run": 1}
    assert os.listdir(tmp_path) == ["results.json"]


def test_environment_names_versions_and_no_machine():
    content = environment()
    assert content["packages"]["torch"] == torch.__version__
    assert content["cpu_threads"] == torch.get_num_threads()
    assert os.uname().nodename not in json.dumps(content["packages"]) and content["date"].endswith(
        "+00:00"
    )


def test_commit_of_a_checkout_and_of_an_installed_copy(tmp_path):
    def git(*command):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        subprocess.run(
            ["git", "-C", tmp_path, *identity, *command], check=True, capture_output=True
        )

    module = tmp_path / "report.py"
    module.write_text("1\n")
    assert git_commit(module) is None
    git("init")
    # inside a checkout, but not tracked
    assert git_commit(module) is None
    git("add", "report.py")
    git("commit", "-m", "one")
    assert len(git_commit(module)) == 40
    module.write_text("2\n")
    assert git_commit(module).endswith("+")
