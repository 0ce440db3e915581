"""The plot of a comparison says what its axes show, and in which unit."""

import pytest

from hf_unlearn.experiments.compare import Comparison
from hf_unlearn.experiments.compare.frontier import draw_frontier

ROW = {"method": "orthograd", "ended": "max_steps", "curve": [(1.0, 0.2)]}


@pytest.mark.parametrize(
    ("score", "match", "scale", "labels"),
    [
        (
            "test_wer",
            {"forget_test_wer": [90]},
            "percent",
            ("WER (%) on forget_test (forgotten, unseen)", "WER (%) on test (retained, unseen)"),
        ),
        (
            "test_loss",
            {"forget_loss": [1]},
            "percent",
            ("Loss on forget (forgotten, trained on)", "Loss on test (retained, unseen)"),
        ),
        (
            "retain_f1_macro",
            {"earlier_1_accuracy": [5]},
            "as given",
            ("Accuracy on earlier_1", "Macro F1 on retain (retained, trained on)"),
        ),
        ("own_bleu", {}, "percent", ("bleu on forget (forgotten, trained on)", "bleu on own")),
    ],
)
def test_axes_are_labelled_with_metric_unit_and_split(score, match, scale, labels):
    comparison = Comparison(
        recipe="recipe.py",
        config="none.yaml",
        output_dir="out",
        target="speaker",
        tune_on=["anna"],
        report_on=["bert"],
        methods={"orthograd": [{"alpha": 0.5}]},
        score=score,
        match=match,
        greater_is_better=False,
    )
    row = {**ROW, "scale": scale, score: 0.2, comparison.forgotten: 1.0}
    (axes,) = draw_frontier([row], comparison).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == labels
