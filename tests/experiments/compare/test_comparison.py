"""`hf-unlearn compare`: settings are chosen where nothing is reported, and mistakes are refused."""

import json

import pytest

from hf_unlearn.cli import main
from hf_unlearn.experiments.compare import Comparison, compare
from tests.experiments.compare.conftest import RECIPE, rows_of
from tests.support.helpers import assert_drawn

pytestmark = pytest.mark.slow


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
    auc = ["0.60 ± 0.00"]
    assert [
        "48",
        "orthograd",
        "alpha 0.6",
        "4/4",
        "91.0 ± 0.0",
        "**22.5 ± 1.2**",
        *auc,
        "4/4",
    ] in table
    assert ["400", "finetune", "alpha 0.6", "4/4", "91.0 ± 0.0", "29.0 ± 1.2", *auc, "0/4"] in table
    # The models that the runs started from and aimed at follow.
    assert ["48", "(original)", "", "", "2.0 ± 0.0", "4.0 ± 0.0", "0.90 ± 0.00", ""] in table
    assert ["48", "(retrained)", "", "", "30.0 ± 0.0", "-", "-", ""] in table
    assert_drawn(output / "frontier.png")


def test_one_setting_each_needs_no_target_to_choose_it_on(comparison):
    settings = {"orthograd": [{"alpha": 0.6}], "finetune": [{"alpha": 0.9}]}
    code, output = comparison(methods=settings, tune_on=[], vary={"size": [48]}, seeds=[1])
    assert code == 0
    assert {row["phase"] for row in rows_of(output)} == {"report"}


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
    assert [
        "48",
        "finetune",
        "alpha 0.55",
        "0/2",
        "91.0 ± 0.0",
        "32.0 ± 1.4",
        "0.60 ± 0.00",
        "0/2",
    ] in table
    assert [
        "48",
        "orthograd",
        "alpha 0.6",
        "2/2",
        "91.0 ± 0.0",
        "**22.5 ± 1.4**",
        "0.60 ± 0.00",
        "2/2",
    ] in table


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
    wins = {row[1]: row[-1] for row in table if row and row[0] == "48"}
    assert (wins["orthograd"], wins["finetune"]) == ("0/2", "2/2")
    comparison(**few, greater_is_better=False)
    assert {row["setting"] for row in rows_of(output) if row["phase"] == "report"} == {
        json.dumps({"alpha": 0.6})
    }


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


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """The options that the runs of a comparison with this YAML would be started with."""

    def started(text: str) -> list[list[str]]:
        calls, file = [], tmp_path / "compare.yaml"
        settings = "recipe: r.py\nconfig: c.yaml\ntarget: speaker\nscore: test_wer\n"
        file.write_text(f"{settings}output_dir: {tmp_path / 'out'}\n{text}")
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
        ("match", "{forget_wer: [most]}", "'most' is not a level of forget_wer"),
        ("options", "{gold: }", "gold is empty"),
        ("processes", "two", "processes is 'two'"),
        ("seeds", "[a]", "seeds is 'a', which is not a whole number"),
    ],
)
def test_values_of_the_wrong_form_are_refused(option, value, message, tmp_path, capsys):
    settings = {
        "recipe": "r",
        "config": "c",
        "target": "speaker",
        "score": "test_wer",
        "output_dir": "o",
        "methods": "{finetune: [{alpha: 0}]}",
        "tune_on": "[a]",
        "report_on": "[b]",
    }
    settings[option] = value
    written = "".join(f"{name}: {value}\n" for name, value in settings.items())
    (tmp_path / "c.yaml").write_text(written)
    assert main(["compare", str(tmp_path / "c.yaml")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"report_on": ["anna", "bert"]}, "anna in tune_on and report_on"),
        (
            {"tune_on": [], "methods": {"finetune": [{"alpha": 0}, {"alpha": 1}]}},
            "tune_on is empty, but the methods have several settings",
        ),
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
