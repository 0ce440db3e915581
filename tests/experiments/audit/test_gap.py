"""The gap, its interval, and the doors that decide, against values computed by hand."""

import numpy as np
import pytest

from hf_unlearn.experiments.audit import Finding, gap_to_retrained, points_forgotten
from hf_unlearn.experiments.audit.after_a_stranger import errors_in_last
from hf_unlearn.experiments.audit.deployment_forms import quantise
from hf_unlearn.experiments.audit.gaps import auc_finding, rate, share_ranked_above
from hf_unlearn.experiments.audit.relearning import align_steps, checked_steps
from hf_unlearn.report.audit_ranking import deciding_doors, rule_numbers
from hf_unlearn.report.audit_tables import audit_rows, audit_text
from hf_unlearn.report.audit_words import headline


def wrong_words(errors: list[int], words: list[int]) -> Finding:
    return rate(errors, words, "WER (%)", "low")


def test_a_lower_error_rate_than_the_retrained_models_is_a_gap_above_0():
    words = [4, 6] * 3
    unlearned, retrained = wrong_words([1, 2] * 3, words), wrong_words([3, 5] * 3, words)
    found = gap_to_retrained(unlearned, retrained)
    assert found["gap"] == 80 - 30
    # All utterances' own gaps are 50; so is every resample's.
    assert [found["low"], found["high"]] == pytest.approx([50, 50])
    assert gap_to_retrained(retrained, unlearned)["gap"] == -50
    assert points_forgotten(wrong_words([0, 1] * 3, words), unlearned) == 30 - 10


def test_a_higher_accuracy_than_the_retrained_models_is_a_gap_above_0():
    right, wrong = rate([1, 1], [1, 1], "accuracy (%)", "high"), rate([0, 1], [1, 1], "", "high")
    found = gap_to_retrained(right, wrong)
    assert found == {"gap": 50, "low": 0, "high": 100}


def test_a_few_samples_are_no_proof():
    """Five of seven samples may all differ in one direction by chance."""
    none = rate([0] * 7, [1] * 7, "accuracy (%)", "high")
    five, six = (rate([1] * n + [0] * (7 - n), [1] * 7, "", "high") for n in (5, 6))
    assert gap_to_retrained(six, none)["low"] > 50
    assert gap_to_retrained(five, none)["low"] == 0 == gap_to_retrained(none, five)["high"]
    known, unknown = (auc_finding(np.arange(7) + 10 * n, np.arange(2)) for n in (1, 0))
    found = gap_to_retrained(known, unknown)
    assert found["low"] == 0 < found["gap"]


def test_models_get_the_same_draws():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0, 1, 30), rng.normal(1, 1, 20)
    once, again = auc_finding(ours, theirs), auc_finding(ours, theirs)
    assert once.more == {"forgotten": 30, "unseen": 20}
    assert gap_to_retrained(once, again) == {"gap": 0, "low": 0, "high": 0}
    assert once.draws.std() > 1
    assert share_ranked_above([2.0], [1.0, 3.0, 4.0, 5.0], "").value == 75


def test_relearning_compares_all_models_at_one_step():
    def at_steps(*values: float) -> Finding:
        steps = {
            step: Finding(value, "WER (%)", "low", more={"loss": value / 10})
            for step, value in enumerate(values)
        }
        return Finding(values[-1], "WER (%)", "low", more={"findings": steps, "trained_on": 4})

    found = align_steps(
        {
            "original": at_steps(10, 5, 0, 0),
            "unlearned": at_steps(90, 60, 10, 5),
            "retrained": at_steps(90, 80, 70, 9),
        }
    )
    assert {name: one.value for name, one in found.items()} == {
        "original": 0,
        "unlearned": 10,
        "retrained": 70,
    }
    assert {name: one.more["steps"] for name, one in found.items()} == {
        "original": 0,
        "unlearned": 2,
        "retrained": 3,
    }
    assert found["retrained"].more["loss"] == 7
    assert found["retrained"].more["loss_by_step"] == {0: 9, 1: 8, 2: 7, 3: 0.9}
    never = {"original": at_steps(10, 9), "unlearned": at_steps(90, 80)}
    assert align_steps(never)["unlearned"].value == 80
    assert checked_steps(20) == [0, 1, 2, 4, 8, 16, 20] and checked_steps(1) == [0, 1]


@pytest.mark.parametrize(
    ("said", "errors"),
    [("a b c d", 0), ("a b c x", 1), ("x y c d", 0), ("a b c d e", 1), ("c d", 0), ("a b", 2)],
)
def test_only_errors_in_the_last_speakers_words_count(said, errors):
    assert errors_in_last("a b", "c d", said) == (errors, 2)


def test_rounding_keeps_the_largest_weight_of_a_group():
    import torch

    weight = torch.tensor([[0.7, 0.06, -0.31, 0.0, 7.0, 0.4]])
    assert torch.allclose(
        quantise(weight, bits=4, group=4), torch.tensor([[0.7, 0.1, -0.3, 0.0, 7.0, 0.0]])
    )


# ---- the doors that decide -----------------------------------------------------------------------


def door(values: tuple[float, ...], low: float | None = None, **more) -> dict:
    original, unlearned, *retrained = values
    entry = {"meaning": "some door", "unit": "WER (%)", "original": original, **more}
    entry |= {"unlearned": unlearned, "forgotten": unlearned - original}
    if retrained:
        entry |= {"retrained": retrained[0], "gap": retrained[0] - unlearned}
    return {**entry, **({} if low is None else {"low": low, "high": 99})}


DOORS = {
    "narrow": door((10, 60, 70), low=4),
    "wide": door((10, 50, 80), low=-5),
    "over": door((10, 95, 80), low=-30),
    "described": {"meaning": "a distance", "unit": "nats", "original": 2, "unlearned": 1},
    "shut": {"meaning": "some door", "unavailable": "no such tokens"},
    "broken": {"meaning": "some door", "failed": "RuntimeError: no"},
}


def test_the_worst_door_is_the_headline():
    audit = {"doors": DOORS, **deciding_doors(DOORS)}
    assert [audit[key]["door"] for key in ("worst", "surest", "conspicuous")] == [
        "wide",
        "narrow",
        "over",
    ]
    first, *rest = headline(audit)
    assert first.startswith("Worst door: wide (some door). WER (%): ")
    assert "original 10.0, unlearned 50.0, retrained 80.0" in first
    assert "knows 30.0 points more than the retrained model (95 % interval -5.0 to 99.0)" in first
    assert first.endswith("may be chance (the largest of 3 gaps).")
    assert "narrow" in rest[0] and "over" in rest[1] and "15.0 points less" in rest[1]
    assert "which may be chance. Being worse than a model that never had the samples" in rest[1]
    assert rest[-1].startswith("Doors measured: 4; unavailable") and "FAILED: 1" in rest[-1]
    assert [row[0] for row in audit_rows(audit)] == ["Door", "wide", "narrow", "over", "described"]
    text = audit_text(audit)
    assert "unavailable: no such tokens" in text and "FAILED: RuntimeError: no" in text
    numbers = rule_numbers(audit)
    assert numbers["worst_gap"] == 30 and numbers["surest_gap"] == 4
    assert numbers["conspicuous_gap"] == 15 and numbers["least_forgotten"] == 40
    assert numbers["over_gap"] == -15 and "described_gap" not in numbers


def test_without_a_retrained_model_the_least_forgetting_door_is_the_worst():
    doors = {"much": door((10, 90)), "little": door((10, 15))}
    audit = {"doors": doors, **deciding_doors(doors)}
    assert audit["worst"]["door"] == "little" and audit["surest"] is None
    assert "Without a retrained model" in headline(audit)[0] and "worst_gap" not in rule_numbers(
        audit
    )
    assert rule_numbers(audit)["least_forgotten"] == 5
    # An attack may fail on the original, too.
    doors["attack"] = door((50, 49), group="attack")
    audit = {"doors": doors, **deciding_doors(doors)}
    assert audit["worst"]["door"] == "little" and rule_numbers(audit)["least_forgotten"] == 5
    line = headline({"doors": doors, **deciding_doors({"attack": doors["attack"]})})[0]
    assert "the model knows 1.0 points more than the original" in line


def test_a_reader_learns_what_was_measured_on_and_what_is_as_bad():
    doors = {name: door((10, 50, 60), group="form") for name in ("one", "two")}
    judged = {"split": "forget_test", "samples": 55}
    lines = headline({"task": "classes", "judged": judged, "doors": doors, **deciding_doors(doors)})
    assert lines[0].endswith("1 other door has the same gap.")
    as_much = {name: {**entry, "retrained": 50, "gap": 0} for name, entry in doors.items()}
    line = headline({"doors": as_much, **deciding_doors(as_much)})[0]
    assert "the unlearned model knows as much as the retrained model. 1 other" in line
    assert lines[-2] == (
        "Unless a door's note says otherwise, WER is measured on 55 samples of forget_test "
        "(forgotten class, unseen)."
    )
    judged = {"split": "forget", "samples": 7, "why": "it is known"}
    lines = headline({"task": "classes", "judged": judged, "doors": doors, **deciding_doors(doors)})
    assert lines[-2].endswith("7 samples of forget (forgotten class), because it is known.")


def test_relearning_tells_after_how_many_steps():
    more = {"unlearned": {"steps": 2, "by_step": {}}, "retrained": {"steps": None, "by_step": {}}}
    doors = {"relearning": door((10, 20, 70), more=more)}
    text = audit_text({"doors": doors, **deciding_doors(doors)})
    assert "relearning: some door (steps until back: unlearned 2, retrained never)" in text


def test_a_form_tells_the_losses():
    more = {"original": {"loss": 0.03}, "unlearned": {"loss": 0.28, "measured_on": 4}}
    # As audit.json has it of a model that has diverged.
    more["retrained"] = {"loss": None}
    doors = {"int8": door((10, 20), more=more)}
    text = audit_text({"doors": doors, **deciding_doors(doors)})
    losses = "loss: original 0.030, unlearned 0.280, retrained not finite"
    assert f"int8: some door (on 4 samples; {losses})" in text


def test_no_gap_above_0_is_said_as_such():
    doors = {"only": door((10, 90, 80), low=-20)}
    audit = {"doors": doors, **deciding_doors(doors)}
    assert headline(audit)[0].startswith(
        "Through no door does the unlearned model know more of the forgotten data"
    )
    assert "clearly above 0" in headline(audit)[1]
    assert headline({"doors": {}, **deciding_doors({})}) == [
        "No door could be measured, so this audit says nothing."
    ]


def test_doors_through_which_the_original_knows_no_more_are_marked():
    # The original knows as little as the retrained model through all doors but `open`.
    doors = {
        "silent": door((97, 95, 97)),
        "less": door((97, 99, 97)),
        "attack": door((97, 90, 97), group="attack"),
        "open": door((10, 96, 97)),
    }
    audit = {"doors": doors, **deciding_doors(doors)}
    rows = {row[0]: row[-1] for row in audit_rows(audit)}
    assert rows.pop("Door") == "gap (points)"
    assert rows == {"attack": "+7.0 *", "silent": "+2.0 *", "open": "+1.0", "less": "-2.0 *"}
    assert audit["worst"]["door"] == "silent" and audit["conspicuous"]["door"] == "open"
    assert "Even the original model knows no more" in headline(audit)[0]
    # Where nothing else is known, such a door is better than none.
    alone = deciding_doors({"less": doors["less"]})
    assert alone["worst"]["door"] == "less"
    # Recognising far less than the retrained model is conspicuous, whatever the original knew.
    found = deciding_doors({**doors, "worse": {**door((5, 30, 5), low=-40), "high": -10}})
    assert found["conspicuous"]["door"] == "worse" and found["worst"]["door"] == "silent"
