"""What reports say of a run in sentences."""

from hf_unlearn.report.tasks import TASKS
from hf_unlearn.report.verdict import overshot, verdict, with_origin

SPEAKERS, CLASSES = TASKS["speakers"], TASKS["classes"]


def models(metric="wer", **values):
    """Values of original, unlearned and retrained by split, with intervals of +-1."""
    return {
        model: {
            split: {
                metric: of[index],
                f"{metric}_low": of[index] - 1,
                f"{metric}_high": of[index] + 1,
            }
            for split, of in values.items()
        }
        for index, model in enumerate(("original", "unlearned", "retrained"))
    }


def test_a_rule_says_that_its_number_is_the_retrained_models():
    retrained = {"forget": {"wer": 15.28661234}}
    said = with_origin("forget_wer >= 15.28661", retrained)
    assert said == "forget_wer >= 15.29 (the retrained model's value)"
    for other in (None, "forget_wer >= 90", "test_wer >= 15.28661"):
        assert with_origin(other, retrained) == other
    assert with_origin("forget_wer >= 90", None) == "forget_wer >= 90"


def test_overshooting_is_named_where_the_intervals_are_apart():
    measured = models(forget=(2.0, 37.6, 36.0), forget_test=(2.0, 29.5, 4.5), test=(5.0, 6.0, 5.0))
    (warning,) = overshot(measured, SPEAKERS)
    assert warning.startswith("forget_test overshot: WER (%) 29.5 against 4.5 of the retrained")
    assert verdict(measured, SPEAKERS, {"step": 3}) == [
        "WER (%) of forget: 37.6, where the retrained model has 36.0.",
        "WER (%) of forget_test: 29.5, where the retrained model has 4.5.",
        "WER (%) of test: 6.0, where the original model has 5.0.",
        warning,
    ]
    accuracies = models("accuracy", forget=(99.0, 3.0, 0.0), forget_test=(99.0, 3.0, 9.0))
    assert [text.split()[0] for text in overshot(accuracies, CLASSES)] == ["forget_test"]


def test_a_restored_original_has_unlearned_nothing_and_no_evaluation_gives_no_verdict():
    (said,) = verdict(models(forget=(1.0, 1.0, 1.0)), SPEAKERS, {"restored_step": 0})
    assert said.startswith("Nothing was unlearned")
    assert verdict({"unlearned": None}, SPEAKERS, None) == []
