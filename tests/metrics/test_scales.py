"""Metrics are shown on the scale that they are given on, and a rule on another scale is warned
of."""

import functools
import json
import pickle
from types import SimpleNamespace

import pytest

from hf_unlearn.evaluation import asr_metrics, classification_metrics, f1_metrics
from hf_unlearn.hub.model_card import build_card
from hf_unlearn.metrics import scales
from hf_unlearn.metrics.described_metrics import description_of
from hf_unlearn.metrics.scales import GIVEN, PERCENT, ScaleCheck, as_given
from hf_unlearn.report.html_page import Report
from hf_unlearn.report.plots import plot_history
from hf_unlearn.report.result_tables import results_table
from hf_unlearn.report.results import Results
from hf_unlearn.report.tasks import task_of
from hf_unlearn.trainer.stopping.rule import Rule
from tests.support.tiny import collate_images, images, make_trainer, tiny_vit


@pytest.fixture
def warned(warnings_of):
    """The warnings of the scale check."""
    return warnings_of(scales)


def user_results(scale=GIVEN, **metrics):
    values = {
        "loss": 1.2345,
        **metrics,
        "runtime": 3.0,
        "samples_per_second": 2.0,
        "confusion": [[1, 2], [3, 4]],
    }
    checks = {f"check_{split}_{k}": v for k, v in metrics.items() for split in ("forget", "test")}
    return Results(
        task="data",
        scale=scale,
        config={"method": "orthograd"},
        data={"samples": {"forget": 8}},
        seed=0,
        unlearned={"forget": values},
        history=[{"step": 2, **checks}],
    )


def test_fractions_are_shown_as_they_are_and_every_metric_is_shown():
    results = user_results(accuracy=0.6123456, f1_macro=0.05, gen_len=11, hits=1534.2)
    tables = results_table(results).split("\n\n")
    assert [table.splitlines()[0].split("  ")[0] for table in tables] == [
        "Accuracy",
        "f1_macro",
        "gen_len",
        "hits",
        "Loss",
    ]
    assert [table.split()[-1] for table in tables] == ["0.612", "0.0500", "11", "1534", "1.234"]
    text = str(build_card(results, salt="x"))
    assert "in percent" not in text and "| Accuracy |" in text and "(%)" not in text
    values = {
        one.metric_type: one.metric_value for one in build_card(results, salt="x").data.eval_results
    }
    assert values == {"accuracy": 0.6123, "f1_macro": 0.05, "gen_len": 11, "hits": 1534.2}
    page = Report(results).html()
    assert "0.612" in page and "(%)" not in page


def test_own_metrics_are_percent_and_results_of_older_versions_are():
    tokenizer = SimpleNamespace(get_vocab=dict, all_special_tokens=[])
    metrics = (classification_metrics, f1_metrics, asr_metrics(tokenizer, normalize=False))
    assert {description_of(function).scale for function in metrics} == {PERCENT}
    assert {description_of(function).scale for function in (lambda _: {}, None)} == {GIVEN}
    wrapped = functools.wraps(f1_metrics)(lambda evaluated: f1_metrics(evaluated))
    assert description_of(wrapped) is f1_metrics is pickle.loads(pickle.dumps(f1_metrics))
    assert f1_metrics.__name__ == "f1_metrics" and "in percent" in f1_metrics.__doc__
    assert (
        results_table(user_results(PERCENT, accuracy=61.23))
        .splitlines()[0]
        .startswith("Accuracy (%)")
    )
    old = Results(task="classes", unlearned={"forget": {"accuracy": 61.23}})
    assert task_of(old).percent and "61.2" in results_table(old)
    # nobody knows
    assert not task_of(Results(task="data", unlearned={"forget": {"accuracy": 0.5}})).percent


@pytest.mark.parametrize(
    "value, text",
    [
        (0.61234, "0.612"),
        (0.0, "0.00"),
        (104.2, "104"),
        (12, "12"),
        (-0.5, "-0.500"),
        (5e-5, "5.00e-05"),
    ],
)
def test_numbers_of_unknown_scale_keep_three_digits(value, text):
    assert as_given(value) == text


def test_a_plot_has_the_users_scale(tmp_path, monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawn = []
    monkeypatch.setattr(
        FigureCanvasAgg, "print_figure", lambda self, *_, **__: drawn.append(self.figure)
    )
    results = user_results(mcc=-0.25)
    plot_history(results.history, tmp_path / "x.png", task=task_of(results))
    axes = drawn[0].axes[0]
    assert axes.get_ylabel() == "mcc" and axes.get_ylim()[0] < -0.25
    assert "%" not in " ".join(text.get_text() for text in axes.texts)


@pytest.mark.parametrize(
    "rule, checks, instead",
    [
        ("forget_accuracy <= 5", [{"forget_accuracy": 0.97}], "forget_accuracy <= 0.05"),
        ("forget_wer >= 90", [{"forget_wer": 0.0}, {"forget_wer": 0.12}], "forget_wer >= 0.9"),
        ("forget_f1_macro < 10", [{"forget_f1_macro": 1.0}], "forget_f1_macro < 0.1"),
        ("forget_accuracy <= 0.05", [{"forget_accuracy": 97.0}], "forget_accuracy <= 5"),
        ("forget_accuracy <= 5", [{"forget_accuracy": 97.0}, {"forget_accuracy": 0.5}], None),
        ("forget_accuracy <= 0.05", [{"forget_accuracy": 0.97}], None),
        # a fraction can be that large
        ("forget_wer >= 0.9", [{"forget_wer": 1.4}], None),
        # a fraction that large says nothing yet
        ("forget_wer >= 90", [{"forget_wer": 2.7}, {"forget_wer": 0.9}], "forget_wer >= 0.9"),
        (
            "forget_wer >= 90",
            [{"forget_wer": 2.7}, {"forget_wer": 80.0}, {"forget_wer": 0.9}],
            None,
        ),
        ("forget_loss >= 6", [{"forget_loss": 0.4}], None),
        ("forget_score >= 6", [{"forget_score": 0.4}], None),
        (
            "forget_f1_macro <= 5",
            [{"forget_f1_macro": 0.0, "test_f1_macro": 0.8}],
            "forget_f1_macro <= 0.05",
        ),
        ("forget_f1_macro <= 5", [{"forget_f1_macro": 0.0, "test_hits_macro": 80.0}], None),
        (
            "forget_top-5 accuracy <= 5",
            [{"forget_top-5 accuracy": 0.9}],
            "forget_top-5 accuracy <= 0.05",
        ),
        (
            "forget_accuracy <= test_accuracy",
            [{"forget_accuracy": 0.9, "test_accuracy": 0.9}],
            None,
        ),
    ],
)
def test_a_rule_on_another_scale_is_warned_of_once(rule, checks, instead, warned):
    check = ScaleCheck([Rule.parse(rule)], GIVEN)
    for metrics in [*checks, *checks]:
        check.look(metrics)
    assert len(warned) == (instead is not None)
    assert instead is None or rule in warned[0] and f"write '{instead}'" in warned[0]


@pytest.mark.parametrize(
    "rule, warns",
    [
        ("forget_accuracy <= 0.05", 1),
        ("forget_wer >= 1", 1),
        ("forget_accuracy <= 1", 0),
        ("forget_wer >= 90", 0),
    ],
)
def test_a_fraction_for_a_metric_in_percent_is_warned_of_at_construction(rule, warns, warned):
    ScaleCheck([Rule.parse(rule)], PERCENT)
    assert len(warned) == warns


def test_a_trainer_with_fractions_warns_and_reports_them(tmp_path, warned):
    def compute_metrics(evaluated):
        return {"accuracy": float((evaluated.predictions.argmax(-1) == evaluated.label_ids).mean())}

    trainer = make_trainer(
        tiny_vit(),
        tmp_path,
        forget=images(6),
        retain=images(6, 1),
        collator=collate_images,
        stop_when="forget_accuracy >= 90",
        arguments={
            "compute_metrics": compute_metrics,
            "eval_dataset": {"forget": [{**images(1)[0]}] * 3},
        },
        check_steps=1,
        learning_rate=0.0,
    )
    # it knows the class
    trainer.model.classifier.bias.data[0] += 9.0
    before = trainer.evaluate()
    assert before["eval_forget_accuracy"] == 1.0
    trainer.train()
    trainer.evaluate()
    assert len(warned) == 1 and "is 1.00 at a check" in warned[0]
    trainer.save_model()
    trainer.create_model_card(language="English")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["scale"] == GIVEN and results["original"]["forget"]["accuracy"] == 1.0
    text = (tmp_path / "README.md").read_text()
    assert "language: en" in text and "1.00" in text and "(%)" not in text
    # No processor is saved, so no pipeline would work.
    assert "ViTForImageClassification.from_pretrained(" in text and "import pipeline" not in text


def test_a_second_training_keeps_what_was_evaluated_before(tmp_path):
    trainer = make_trainer(
        tiny_vit(),
        tmp_path,
        forget=images(6),
        retain=images(6, 1),
        collator=collate_images,
        arguments={"eval_dataset": images(3, 2)},
    )
    loss = trainer.evaluate()["eval_loss"]
    for _ in range(2):
        trainer.train()
        after = trainer.evaluate()["eval_loss"]
    results = trainer.own_results()
    # One set without a name: nobody knows whether it should stay.
    assert results.original["evaluation"]["loss"] == loss
    assert results.unlearned["evaluation"]["loss"] == after != loss
    assert task_of(results).wanted("evaluation", "loss") == ""
