"""Methods are compared at equal forgetting: at levels of a metric, read off between the checks."""

import json
import re
from dataclasses import replace

import pytest

from hf_unlearn.experiments.compare import Comparison, reached_at
from hf_unlearn.experiments.compare.summary import pairs, tables_by_target
from tests.experiments.compare.conftest import rows_of


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
    settings = {
        "recipe": "",
        "config": "",
        "output_dir": "",
        "tune_on": [],
        "report_on": ["anna", "bert"],
    }
    compared = Comparison(
        **settings,
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
        "| size | score          |    method | compared with | ahead | difference |       range |",
        "| ---- | -------------- | --------: | ------------: | ----: | ---------: | ----------: |",
        "| 48   | test_wer at 90 | orthograd |      finetune |   1/2 | -1.5 ± 6.4 | -6.0 to 3.0 |",
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
        # the first time counts
        ([(0, 5), (50, 20), (40, 30), (60, 50)], 45, 18.5),
        # an accuracy falls
        ([(98, 99), (60, 95), (8, 91)], 10, 95 - 4 * 50 / 52),
        ([(0, 5), (80, 20)], 90, None),
        ([(0, 5), (0, 7), (90, 9)], 90, 9),
        ([], 90, None),
    ],
)
def test_a_score_is_read_off_where_the_level_is_first_reached(curve, level, expected):
    assert reached_at(curve, level) == (None if expected is None else pytest.approx(expected))
