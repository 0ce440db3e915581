"""`hf-unlearn compare` on a recipe that only computes numbers from its options."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hf_unlearn import METHODS
from hf_unlearn.cli import main
from hf_unlearn.experiments.compare import Comparison, compare, reached_at
from hf_unlearn.experiments.compare.summary import pairs, tables_by_target
from tests.recipes.configurations import COMPARISONS
from tests.support.helpers import ROOT, assert_drawn

RECIPE = """
import json, pathlib, sys
words = sys.argv[2:]
given = dict(zip(words[::2], words[1::2]))
folder = pathlib.Path(given["--output_dir"])
(folder / "runs").open("a").write("run\\n")
(folder / "models_dir").write_text(given["--models_dir"])
if given.get("--alpha") == "0.1":
    sys.exit("this setting crashes")
at = {"orthograd": 20, "finetune": 30}[given["--method"]]
test = at + 10 * abs(float(given["--alpha"]) - 0.5)
test += {"anna": 0, "bert": 1, "carl": 3}[given["--speaker"]] - int(given["--size"]) / 100
reached = given["--alpha"] != "0.55"
results = {
    "task": "speakers",
    "gold": given.get("--gold"),
    "method_kwargs": given.get("--method_kwargs"),
    "stopping": {"reason": "target reached" if reached else "max_steps", "step": 7},
    "unlearned": {"forget": {"wer": 91.0}, "test": {"wer": test}},
    "retrained": {"forget": {"wer": 30.0}},
    "history": [
        {"step": 0, "check_forget_wer": 10.0, "check_test_wer": 5.0},
        # A check may have a row for each split.
        {"step": 2, "check_forget_wer": 50.0},
        {"step": 2, "check_test_wer": float(at)},
        {"step": 4, "check_forget_wer": 91.0 if reached else 60.0, "check_test_wer": test},
    ],
}
(folder / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture
def comparison(tmp_path):
    recipe, output = tmp_path / "recipe.py", tmp_path / "out"
    recipe.write_text(RECIPE)
    settings = [{"alpha": 0.1}, {"alpha": 0.55}, {"alpha": 0.6}, {"alpha": 0.9}]
    given = {
        "recipe": str(recipe),
        "config": "none.yaml",
        "output_dir": str(output),
        "target": "speaker",
        "tune_on": ["anna"],
        "report_on": ["bert", "carl"],
        "seeds": [1, 2],
        "vary": {"size": [48, 400]},
        "methods": {"orthograd": settings, "finetune": settings},
        "score": "test_wer",
        "processes": 2,
    }

    def run(**changes):
        file = tmp_path / "compare.yaml"
        file.write_text(yaml.safe_dump({**given, **changes}))
        return main(["compare", str(file)]), output

    return run


def rows_of(output: Path) -> list[dict]:
    with open(output / "runs.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_files_of_the_recipes_are_understood_and_documented(file):
    comparison = Comparison.read(file)
    assert (ROOT / comparison.recipe).is_file() and (ROOT / comparison.config).is_file()
    assert set(comparison.methods) <= set(METHODS)
    assert file.name in (file.parent / "README.md").read_text()


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_committed_rows_give_the_numbers_of_the_readme_without_a_run(
    file, tmp_path, monkeypatch
):
    comparison = Comparison.read(file)
    if comparison.known is None:
        pytest.skip("its runs are not kept by cell")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        "hf_unlearn.experiments.compare.runs.run_cell",
        lambda cell, _: pytest.fail(f"{cell} is not among the rows"),
    )
    by_method, *_, in_pairs = compare(replace(comparison, output_dir=str(tmp_path))).split("\n\n")
    heading, _, *lines = by_method.splitlines()
    readme = (file.parent / "README.md").read_text().replace("*", "").splitlines()
    for line in lines:
        row = dict(zip(cells_of(heading), cells_of(line)))
        keys = [row[name] for name in (*comparison.vary, "method")]
        wanted = [*row["reached"].split(", "), *(row[name] for name in comparison.scores)]
        same = [cells for cells in map(cells_of, readme) if cells[: len(keys)] == keys]
        assert any(set(wanted) <= set(cells) for cells in same), (wanted, same)
    table = list(map(cells_of, readme))
    assert cells_of(in_pairs.splitlines()[0]) not in table or all(
        cells_of(x) in table for x in in_pairs.splitlines()[2:]
    )


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("*", "").strip("|").split("|")]


def test_settings_are_chosen_where_nothing_is_reported(comparison, capsys):
    code, output = comparison()
    assert code == 0
    rows = rows_of(output)
    tuned, reported = (
        [row for row in rows if row["phase"] == phase] for phase in ("tune", "report")
    )
    assert len(tuned) == 2 * 2 * 4 and {row["target"] for row in tuned} == {"anna"}
    assert len(reported) == 2 * 2 * 2 * 2 and {row["target"] for row in reported} == {
        "bert",
        "carl",
    }
    # 0.55 would have the best score but did not reach the target, and 0.1 crashed: 0.6 remains.
    assert {row["setting"] for row in reported} == {json.dumps({"alpha": 0.6})}
    assert sum(row["ended"] == "failed" for row in tuned) == 4
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
    ]
    assert ["48", "orthograd", "alpha 0.6", "4/4", "91.0 ± 0.0", "**22.5 ± 1.2**", "4/4"] in table
    assert ["400", "finetune", "alpha 0.6", "4/4", "91.0 ± 0.0", "29.0 ± 1.2", "0/4"] in table
    assert_drawn(output / "frontier.png")


def test_a_method_that_reaches_nothing_is_reported_with_its_furthest_setting(comparison, capsys):
    settings = {
        "orthograd": [{"alpha": 0.6}, {"alpha": 0.9}],
        "finetune": [{"alpha": 0.1}, {"alpha": 0.55}],
    }
    code, output = comparison(methods=settings, vary={"size": [48]}, seeds=[1])
    assert code == 0
    chosen = {row["method"]: row["setting"] for row in rows_of(output) if row["phase"] == "report"}
    assert chosen == {
        "orthograd": json.dumps({"alpha": 0.6}),
        "finetune": json.dumps({"alpha": 0.55}),
    }
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
    ]
    # never in bold
    assert ["48", "finetune", "alpha 0.55", "0/2", "91.0 ± 0.0", "32.0 ± 1.4", "0/2"] in table
    assert ["48", "orthograd", "alpha 0.6", "2/2", "91.0 ± 0.0", "**22.5 ± 1.4**", "2/2"] in table


def test_accuracies_are_better_when_they_are_greater(comparison, capsys, tmp_path):
    (tmp_path / "recipe.py").write_text(
        RECIPE.replace("wer", "accuracy").replace("speakers", "classes")
    )
    few = {
        "score": "test_accuracy",
        "match": {"forget_accuracy": [80]},
        "vary": {"size": [48]},
        "seeds": [1],
    }
    code, output = comparison(**few)
    assert code == 0
    assert {row["setting"] for row in rows_of(output) if row["phase"] == "report"} == {
        json.dumps({"alpha": 0.9})
    }
    summary, _, by_target = capsys.readouterr().out.partition("by speaker:")
    table, targets = (
        [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
        for text in (summary, by_target)
    )
    for rows in table, targets:
        assert [row[1] for row in rows if any(cell.startswith("**") for cell in row)] == [
            "finetune"
        ]
    assert {row[1]: row[-1] for row in table if row and row[0] == "48"} == {
        "orthograd": "0/2",
        "finetune": "2/2",
    }
    comparison(**few, greater_is_better=False)
    assert {row["setting"] for row in rows_of(output) if row["phase"] == "report"} == {
        json.dumps({"alpha": 0.6})
    }


def test_what_is_done_is_not_done_again(comparison):
    _, output = comparison()
    done = next(path for path in output.rglob("results.json"))
    lost = next(path for path in output.rglob("results.json") if path != done)
    lost.unlink()
    before = rows_of(output)
    comparison()
    assert (done.parent / "runs").read_text() == "run\n"
    assert (lost.parent / "runs").read_text() == "run\nrun\n"
    assert rows_of(output) == before


def test_rows_of_another_machine_are_not_run_again(comparison, tmp_path):
    few = {"vary": {"size": [48]}, "match": {"forget_wer": [30, 70]}, "seeds": [1]}
    _, there = comparison(**few)
    rows, kept = rows_of(there), tmp_path / "rows.csv"
    (there / "runs.csv").rename(kept)
    comparison(**few, known=str(kept), output_dir=str(tmp_path / "here"))
    assert rows_of(tmp_path / "here") == rows
    assert (tmp_path / "here" / "table.md").read_text() == (there / "table.md").read_text()
    assert {path.parent.name for path in (tmp_path / "here").rglob("log.txt")} == {
        f"anna-{row['cell']}"
        for row in rows
        if row["ended"] == "failed"  # a failed run may succeed on another machine
    }
    assert (tmp_path / "here" / "frontier.png").read_bytes() == (
        there / "frontier.png"
    ).read_bytes()

    comparison(
        **few, known=str(kept), output_dir=str(tmp_path / "there"), options={"model": "another"}
    )
    assert len(list((tmp_path / "there").rglob("log.txt"))) == len(rows)


def test_where_all_rows_are_known_nothing_is_run(comparison, tmp_path):
    here, match = tmp_path / "new" / "here", {"forget_wer": [30]}
    few = {
        "methods": {"orthograd": [{"alpha": 0.6}]},
        "vary": {"size": [48]},
        "seeds": [1],
        "match": match,
    }
    _, there = comparison(**few)
    code, _ = comparison(**few, known=str(there / "runs.csv"), output_dir=str(here))
    assert code == 0 and {path.name for path in here.iterdir()} == {
        "runs.csv",
        "table.md",
        "frontier.png",
    }
    assert (here / "runs.csv").read_text() == (there / "runs.csv").read_text()


def test_rows_without_their_cells_are_refused(comparison, tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("phase,method,ended\ntune,orthograd,max_steps\n")
    code, _ = comparison(known=str(tmp_path / "rows.csv"))
    assert code == 1 and "has no column cell, curve, test_wer" in capsys.readouterr().err
    code, _ = comparison(known=str(tmp_path / "none.csv"))
    assert code == 1 and "none.csv" in capsys.readouterr().err


def test_all_cells_keep_their_trained_models_in_one_folder(comparison):
    few = {
        "methods": {"orthograd": [{"alpha": 0.6}]},
        "vary": {"size": [48]},
        "report_on": ["bert"],
        "seeds": [1],
    }
    _, output = comparison(**few)
    assert {path.read_text() for path in output.rglob("models_dir")} == {str(output / "models")}
    _, output = comparison(**few, options={"models_dir": "mine"})
    assert "mine" in {path.read_text() for path in output.rglob("models_dir")}


def test_a_setting_may_hold_keywords_of_the_method(comparison):
    """They reach the recipe as it reads them: as JSON."""
    settings = [{"alpha": 0.6, "method_kwargs": {"beta": 0.5}}]
    code, output = comparison(
        methods={"orthograd": settings}, vary={"size": [48]}, report_on=["bert"], seeds=[1]
    )
    assert code == 0
    results = [json.loads(path.read_text()) for path in output.rglob("results.json")]
    assert len(results) == 2 and all(
        json.loads(result["method_kwargs"]) == {"beta": 0.5} for result in results
    )


def test_methods_are_compared_at_equal_forgetting(comparison, capsys):
    """At 70 (0.488 of the way to the last check), and at the retrained model's level (30: halfway
    to the first)."""
    code, output = comparison(
        match={"forget_wer": [70, "retrained"]},
        vary={"size": [48]},
        seeds=[1],
        options={"gold": "{target}/retrained"},
    )
    assert code == 0
    rows = rows_of(output)
    assert {row["setting"] for row in rows if row["phase"] == "report"} == {
        json.dumps({"alpha": 0.6})
    }
    row = next(r for r in rows if r["method"] == "orthograd" and r["target"] == "carl")
    assert float(row["test_wer at retrained"]) == pytest.approx((5 + 20) / 2)
    assert float(row["test_wer at 70"]) == pytest.approx(20 + (23.52 - 20) * 20 / 41)
    assert (
        next(r for r in rows if r["setting"] == json.dumps({"alpha": 0.55}))["test_wer at 70"] == ""
    )
    table = capsys.readouterr().out
    assert "**12.5 ± 0.0**" in table and "| 2/2, 2/2 |" in table and "| 0/2, 0/2 |" in table
    gold = [json.loads(path.read_text())["gold"] for path in output.rglob("results.json")]
    assert set(gold) == {"anna/retrained", "bert/retrained", "carl/retrained"}


def test_every_target_has_its_own_numbers():
    """A mean counts as the best among those of the methods that came to the level in most seeds."""
    given = {
        "recipe": "",
        "config": "",
        "output_dir": "",
        "tune_on": [],
        "report_on": ["anna", "bert"],
    }
    compared = Comparison(
        **given,
        target="speaker",
        score="test_wer",
        match={"forget_wer": [90]},
        vary={"size": [48]},
        methods={"orthograd": [{}], "finetune": [{}]},
    )
    scores = {
        ("orthograd", "anna"): [10, 20],
        ("orthograd", "bert"): [12.25, None],
        ("finetune", "anna"): [16, 17],
        ("finetune", "bert"): [None, None],
    }
    rows = [
        {"size": 48, "method": method, "target": target, "ended": "", "test_wer at 90": score}
        for (method, target), values in scores.items()
        for score in values
    ]
    assert pairs(rows, compared).splitlines() == [
        "In the runs where both methods reached the level:",
        "",
        "| size | score          |    method |   beside | ahead | difference |       range |",
        "| ---- | -------------- | --------: | -------: | ----: | ---------: | ----------: |",
        "| 48   | test_wer at 90 | orthograd | finetune |   1/2 | -1.5 ± 6.4 | -6.0 to 3.0 |",
    ]
    assert pairs(rows, replace(compared, methods={"orthograd": [{}]})) == ""
    assert tables_by_target(rows, compared).splitlines() == [
        "test_wer at 90, by speaker:",
        "",
        "| size | method    |     anna |           bert |",
        "| ---- | --------- | -------: | -------------: |",
        "| 48   | orthograd | **15.0** | **12.2** (1/2) |",
        "| 48   | finetune  |     16.5 |              - |",
    ]


def test_a_setting_is_chosen_for_the_first_level(comparison):
    """alpha 0.55 keeps the most at 55 and never comes to 70."""
    for levels, alpha in ([55, 70], 0.55), ([70, 55], 0.6):
        _, output = comparison(match={"forget_wer": levels}, vary={"size": [48]}, seeds=[1])
        chosen = {row["setting"] for row in rows_of(output) if row["phase"] == "report"}
        assert chosen == {json.dumps({"alpha": alpha})}


def test_a_level_that_no_setting_comes_to_is_left_open(comparison, capsys):
    code, output = comparison(match={"forget_wer": [30, 95]}, vary={"size": [48]}, seeds=[1])
    assert code == 0
    assert all(
        row["test_wer at 30"] and not row["test_wer at 95"]
        for row in rows_of(output)
        if row["ended"] != "failed"
    )
    assert re.search(r"\| 2/2, 0/2 \|.*\| +- \|", capsys.readouterr().out)


@pytest.mark.parametrize(
    "curve, level, expected",
    [
        ([(0, 5), (50, 20), (40, 30), (60, 50)], 45, 18.5),  # the first time counts
        ([(98, 99), (60, 95), (8, 91)], 10, 95 - 4 * 50 / 52),  # an accuracy falls
        ([(0, 5), (80, 20)], 90, None),
        ([(0, 5), (0, 7), (90, 9)], 90, 9),
        ([], 90, None),
    ],
)
def test_a_score_is_read_off_where_the_level_is_first_reached(curve, level, expected):
    assert reached_at(curve, level) == (None if expected is None else pytest.approx(expected))


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """The options that the runs of a comparison with this YAML would be started with."""

    def started(text: str) -> list[list[str]]:
        calls, file = [], tmp_path / "compare.yaml"
        given = "recipe: r.py\nconfig: c.yaml\ntarget: speaker\nscore: test_wer\n"
        file.write_text(f"{given}output_dir: {tmp_path / 'out'}\n{text}")
        monkeypatch.setattr(
            "hf_unlearn.experiments.compare.runs.subprocess.run",
            lambda command, **_: calls.append(command),
        )
        with pytest.raises(ValueError, match="no run of finetune finished"):
            compare(Comparison.read(file))
        return [command[3:] for command in calls]

    return started


def test_targets_and_options_reach_the_recipe_as_they_are_written(commands):
    """Speaker 010 is neither 10 nor 8, and has a run of its own."""
    told = commands(
        "tune_on: [010, 10, '10', 8, no, 2024-01-01, 1e5]\nreport_on: [0x1F]\n"
        "options: {language: no, names: [007, on]}\n"
        "methods: {finetune: [{learning_rate: 1e-4, attacks: off, method_kwargs: {scale: 1e-3}}]}\n"
    )
    by_target = {words[words.index("--speaker") + 1]: words for words in told}
    assert sorted(words[words.index("--speaker") + 1] for words in told) == sorted(
        ["010", "10", "10", "8", "no", "2024-01-01", "1e5"]
    )
    assert len({words[words.index("--output_dir") + 1] for words in told}) == 7
    text = " ".join(by_target["010"])
    assert "--language no --names 007 on --learning_rate 1e-4 --attacks off" in text
    assert '--method_kwargs {"scale": 0.001}' in text


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("tune_on", "anna", "tune_on is 'anna', but must be a list"),
        ("vary", "{size: 48}", "must hold a list for each key"),
        ("match", "{forget_wer: 50}", "must hold a list for each key"),
        ("match", "{forget_wer: [most]}", "'most' is no level of forget_wer"),
        ("options", "{gold: }", "gold is empty"),
        ("processes", "two", "processes is 'two'"),
        ("seeds", "[a]", "seeds is 'a', which is not a whole number"),
    ],
)
def test_values_of_the_wrong_form_are_refused(option, value, message, tmp_path, capsys):
    given = {
        "recipe": "r",
        "config": "c",
        "target": "speaker",
        "score": "test_wer",
        "output_dir": "o",
        "methods": "{finetune: [{alpha: 0}]}",
        "tune_on": "[a]",
        "report_on": "[b]",
    }
    given[option] = value
    written = "".join(f"{name}: {value}\n" for name, value in given.items())
    (tmp_path / "c.yaml").write_text(written)
    assert main(["compare", str(tmp_path / "c.yaml")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"report_on": ["anna", "bert"]}, "anna in tune_on and report_on"),
        (
            {"methods": {"orthograd": [{"alpha": 0.5}], "finetune": []}},
            "the same number of settings for every method",
        ),
        ({"methods": {"orthograd": [{"alpha": 0.1}]}}, "no run of orthograd finished"),
        ({"score": "test_f1"}, "whether a greater f1 is a better score"),
        ({"match": {"forget_wer": [90], "test_wer": [3]}}, "give one metric"),
        ({"metods": {}}, "unknown in"),
    ],
)
def test_unfair_and_mistaken_comparisons_are_refused(comparison, capsys, changes, message):
    code, _ = comparison(**changes)
    assert code == 1
    assert message in capsys.readouterr().err
