"""What an audit says in words: which gaps it names, which of them are equal, and what its notes
tell of a door."""

import pytest

from hf_unlearn.report.audit_ranking import deciding_doors
from hf_unlearn.report.audit_tables import audit_rows, audit_text, door_notes
from hf_unlearn.report.audit_words import headline


def door(gap: float, low: float, high: float, **more) -> dict:
    """A door through which the retrained model has 50 % errors and the original none."""
    values = {"original": 0.0, "unlearned": 50 - gap, "retrained": 50.0, "forgotten": 50 - gap}
    return {
        **{"meaning": "some door", "unit": "WER (%)", "gap": gap, "low": low, "high": high},
        **{**values, **more},
    }


def audit_of(doors: dict[str, dict], **more) -> dict:
    return {"doors": doors, **deciding_doors(doors), **more}


def test_rounding_in_floating_point_decides_no_tie():
    audit = audit_of(
        {
            "wide": door(3 + 1e-12, -5, 9),
            "narrow": door(3.0, -1, 7),
            "vague": door(-8 - 1e-12, -20, -1),
            "clear": door(-8.0, -10, -6),
        }
    )
    assert audit["worst"]["door"] == "narrow" and audit["conspicuous"]["door"] == "clear"
    assert [row[0] for row in audit_rows(audit)[1:]] == ["wide", "narrow", "vague", "clear"]
    lines = headline(audit)
    assert lines[0].endswith("(the largest of 4 gaps). 1 other door has the same gap.")
    (conspicuous,) = [line for line in lines if line.startswith("Most conspicuous door: clear")]
    assert "1 other door has the same gap." in conspicuous


def test_gaps_clearly_below_0_are_counted_and_the_clearest_is_told():
    doors = {
        "up": door(4, -9, 17),
        "lowest": door(-21, -37, -6),
        "clearest": door(-20, -33, -10),
        "unclear": door(-15, -40, 0),
    }
    lines = headline(audit_of(doors))
    assert (
        "2 of 4 gaps lie clearly below 0: clearest, lowest. The clearest is a gap of -20.0 points "
        "(95 % interval -33.0 to -10.0) through clearest. WER (%): original 0.0, unlearned 70.0, "
        "retrained 50.0."
    ) in lines
    del doors["lowest"]
    (line,) = [line for line in headline(audit_of(doors)) if "clearly below 0" in line]
    assert line.startswith("1 of 3 gaps lies clearly below 0: clearest. This is a gap of -20.0")
    del doors["clearest"]
    assert "below 0" not in " ".join(headline(audit_of(doors)))


def test_the_surest_gap_is_told_even_if_it_may_be_chance():
    doors = {"largest": door(4, -9, 17), "surest": door(1, -3, 5)}
    said = (
        "No gap is clearly above 0. The surest is surest, 1.0 points (95 % interval -3.0 to 5.0)."
    )
    assert said in headline(audit_of(doors))
    assert "No gap is clearly above 0." in headline(audit_of({"largest": doors["largest"]}))
    plain = {"gap": 4, "meaning": "", "unit": "AUC (%)", "unlearned": 54, "retrained": 50}
    lines = headline(audit_of({"plain": {**plain, "original": 90, "forgotten": 36}}))
    assert "No gap has an interval, so each of them may be chance." in lines


@pytest.mark.parametrize(("unlearned", "told"), [(0.92, True), (0.23, False), (0.1, False)])
def test_a_model_that_has_gone_away_from_the_retrained_one_is_told(unlearned, told):
    distance = {"meaning": "", "unit": "nats", "original": 0.229, "unlearned": unlearned}
    doors = {"loss": door(4, -9, 17), "distance_to_retrained": {**distance, "retrained": 0.0}}
    said = "farther from the retrained model (0.92 nats) than the original was (0.23)."
    assert (said in " ".join(headline(audit_of(doors)))) == told


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({"split": "forget_test", "measured_on": 14}, "on 14 samples of forget_test"),
        ({"measured_on": 48, "prompt_tokens": 3}, "on 48 samples of forget; 3 prompt tokens"),
        (
            {"forgotten": 48, "unseen": 14, "from": "forget_test"},
            "48 forgotten, 14 unseen samples; compared with forget_test",
        ),
        (
            {"forgotten": 9, "unseen": 9, "pairs": 9, "from": "test"},
            "9 pairs; compared with test",
        ),
        ({"before": 3.0, "steps": 20}, "after 20 steps"),
        (
            {"trained_on": 16, "at_step": 4, "steps": 4, "by_step": {}},
            "trained on 16 forgotten samples; measured at step 4; steps until back: original 4, "
            "unlearned 4",
        ),
        ({"penalty": 2.0}, "penalty: original 2, unlearned 2"),
    ],
)
def test_a_note_tells_what_a_number_is_based_on(more, note):
    about = {"more": {"original": more, "unlearned": more}, "settings": {"judged_split": "forget"}}
    assert door_notes(audit_of({"one": door(1, 0, 2, **about)})) == [("one", f"some door ({note})")]


def test_a_note_leaves_out_what_the_meaning_says():
    more = {"unlearned": {"from": "retrained"}}
    assert door_notes(audit_of({"one": door(1, 0, 2, more=more)})) == [("one", "some door")]


def test_a_split_of_which_a_part_was_used_is_told():
    samples = {"forget": {"used": 48, "of": 48}, "test": {"used": 128, "of": 154}}
    notes = door_notes(audit_of({"one": door(1, 0, 2)}, samples=samples))
    assert notes[0] == ("test", "128 of the run's 154 samples (--max_samples)")
    assert len(notes) == 2


def test_the_table_in_a_terminal_says_what_its_last_column_is():
    assert "Gap: how much more the unlearned model knows" in audit_text(
        audit_of({"a": door(1, 0, 2)})
    )
    alone = {"meaning": "", "unit": "WER (%)", "original": 1, "unlearned": 3, "forgotten": 2}
    text = audit_text(audit_of({"a": alone}))
    assert "Forgotten: how much less the unlearned model knows" in text and "Gap:" not in text
