"""Stopping rules: how they are read, stopping at a target, and restoring the best model."""

import copy

import pytest
import torch
from torch.utils.data import Subset

from hf_unlearn.trainer.stopping.rule import Rule
from tests.support.tiny import FORGET, RETAIN, make_trainer, tiny_whisper


def test_rules_are_read_and_hold():
    rule = Rule.parse(" forget_test_wer >= 90.5 ")
    assert rule == Rule("forget_test_wer", ">=", 90.5)
    assert rule.holds({"forget_test_wer": 90.5}) and not rule.holds({"forget_test_wer": 90.4})
    assert rule.better(80, than=70) and rule.splits(["forget", "forget_test"]) == {"forget_test"}
    assert Rule.parse("test_accuracy < 3").better(2, than=4)


def test_a_rule_may_compare_with_another_metric():
    rule = Rule.parse("forget_accuracy <= test_accuracy")
    assert str(rule) == "forget_accuracy <= test_accuracy" and rule.splits(["forget", "test"]) == {
        "forget",
        "test",
    }
    assert rule.holds({"forget_accuracy": 90.0, "test_accuracy": 90.0})
    assert not rule.holds({"forget_accuracy": 91.0, "test_accuracy": 90.0})
    assert rule.margin({"forget_accuracy": 91.0, "test_accuracy": 90.0}) == 1.0


@pytest.mark.parametrize(
    "text, value, offset",
    [
        ("original", "original", 0),
        ("original + 2", "original", 2),
        ("retrained  -  .5", "retrained", -0.5),
        ("other_top-5 + 1e1", "other_top-5", 10),
    ],
)
def test_a_number_may_be_added_to_a_value_with_a_name(text, value, offset):
    rule = Rule.parse(f"test_wer > {text}")
    assert rule == Rule("test_wer", ">", value, offset) == Rule.parse(str(rule))
    assert rule.with_value(10.0) == Rule("test_wer", ">", 10.0 + offset)
    assert not rule.holds({"test_wer": 10.0 + offset, value: 10.0})
    assert rule.holds({"test_wer": 10.1 + offset, value: 10.0})


@pytest.mark.parametrize(
    "metric",
    ["f1_macro", "f1-macro", "rouge1", "top5 accuracy", "wer/en", "5shot", "f1@k", "naïve"],
)
@pytest.mark.parametrize("split", ["forget", "test-clean", "2nd.half"])
def test_splits_and_metrics_may_have_any_name(metric, split):
    name = f"{split}_{metric}"
    for text, value in [("-1.5e-3", -0.0015), (".5", 0.5), (name, name)]:
        rule = Rule.parse(f"{name}<={text}")
        assert rule == Rule(name, "<=", value) == Rule.parse(str(rule))
        assert rule.splits([split, "other"]) == {split}


@pytest.mark.parametrize(
    "text",
    [
        "forget_wer >= 90%",
        "forget_wer => 90",
        "forget_wer == 90",
        "forget_wer >=",
        ">= 90",
        "forget_wer >= high",
        "forget_wer >= 90 <= 3",
        "forget_wer >= nan",
        "forget_wer >= 20 + 3",
        "forget_wer >= original +",
    ],
)
def test_a_text_that_is_not_a_rule_is_refused(text):
    with pytest.raises(ValueError, match="cannot read the rule"):
        Rule.parse(text)


def test_the_word_retrained_is_for_recipes(tmp_path):
    with pytest.raises(
        ValueError, match="names the retrained model, which only recipes measure .gold: "
    ):
        run(tmp_path, stop_when="forget_loss >= retrained")


def run(tmp_path, **options):
    splits = {"eval_dataset": {"forget": FORGET, "test": RETAIN}}
    trainer = make_trainer(
        tiny_whisper(),
        tmp_path,
        optimizer=False,
        max_steps=40,
        learning_rate=3e-3,
        arguments=splits,
        check_steps=2,
        check_samples=3,
        method="gradient_ascent",
        retain=None,
        **options,
    )
    start = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    return trainer, start


def checks(trainer, metric) -> dict[int, float]:
    return {row["step"]: row[metric] for row in trainer.state.log_history if metric in row}


def test_stops_when_the_target_is_reached(tmp_path):
    trainer, _ = run(tmp_path, stop_when="forget_loss >= 6")
    values = checks(trainer, "check_forget_loss")
    report = trainer.stopping
    assert report["reason"] == "target reached" and report["step"] == max(values) < 40
    assert report["value"] == values[report["step"]] >= 6
    assert all(value < 6 for step, value in values.items() if step < report["step"])


def test_a_check_leaves_the_steps_own_log_and_evaluation(tmp_path):
    trainer, _ = run(
        tmp_path, stop_when="forget_loss >= 6", logging_steps=2, eval_strategy="steps", eval_steps=4
    )
    steps = list(checks(trainer, "check_forget_loss"))
    assert steps == list(range(0, steps[-1] + 1, 2))
    assert list(checks(trainer, "forget_loss")) == steps[1:]
    assert list(checks(trainer, "eval_test_loss")) == list(range(4, steps[-1] + 1, 4))


def test_abort_restores_the_best_model_checked(tmp_path):
    trainer, _ = run(tmp_path, stop_when="forget_loss >= 1000", abort_when="test_loss > 4.3")
    report, forget = trainer.stopping, checks(trainer, "check_forget_loss")
    assert report["reason"] == "aborted" and not list(tmp_path.glob("best_checked*"))
    good = {
        step: forget[step]
        for step, value in checks(trainer, "check_test_loss").items()
        if value <= 4.3
    }
    assert good and report["restored_step"] == max(good, key=good.get)
    # the three samples, spread evenly over the split, that a check evaluates
    checked = {"forget": Subset(FORGET, [0, 4, 7])}
    again = trainer.evaluate(checked, metric_key_prefix="again")
    assert again["again_forget_loss"] == pytest.approx(good[report["restored_step"]], rel=1e-6)


def test_a_rule_may_compare_with_the_original_model(tmp_path):
    torch.manual_seed(0)
    relative, _ = run(
        tmp_path / "relative",
        stop_when="forget_loss >= 1000",
        abort_when="test_loss > original + 0.2",
    )
    start = checks(relative, "check_test_loss")[0]
    torch.manual_seed(0)
    number, _ = run(
        tmp_path / "number",
        stop_when="forget_loss >= 1000",
        abort_when=f"test_loss > {start + 0.2!r}",
    )
    report = dict(relative.stopping)
    assert report["reason"] == "aborted" and report["restored_step"] > 0
    assert report.pop("abort_rule") == f"test_loss > original + 0.2 ({start + 0.2:.4g})"
    assert report == {key: number.stopping[key] for key in report}


@pytest.mark.parametrize(
    "rules",
    [
        {"abort_when": "test_loss > 0"},
        {"stop_when": "forget_loss >= 0", "abort_when": "test_loss > 1000"},
    ],
    ids=["abort_when", "stop_when"],
)
def test_a_rule_that_holds_before_the_first_step_is_refused(rules, tmp_path):
    name, rule = next(iter(rules.items()))
    with pytest.raises(ValueError, match=rf"{name} {rule} already holds before .* \(\d"):
        run(tmp_path, **rules)


def test_the_check_before_the_first_step_changes_no_step(tmp_path):
    torch.manual_seed(0)
    with_rule, _ = run(tmp_path / "a", stop_when="forget_loss >= 1000")
    torch.manual_seed(0)
    without, _ = run(tmp_path / "b")
    first = next(iter(checks(with_rule, "check_forget_loss")))
    assert first == 0 and "check_forget_loss" not in without.state.log_history[0]
    assert checks(with_rule, "loss") == checks(without, "loss")


def test_abort_restores_the_original_where_no_later_model_is_better(tmp_path, caplog):
    trainer, start = run(tmp_path, stop_when="forget_loss <= 0", abort_when="forget_loss > 4.2")
    assert trainer.stopping["restored_step"] == 0
    assert "nothing was unlearned, this is the original model" in caplog.text
    for before, after in zip(start, trainer.model.parameters()):
        assert torch.equal(before, after)


def test_a_metric_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        ValueError, match="names 'test_accuracy', but evaluation will give test_loss"
    ):
        run(tmp_path, stop_when="test_accuracy < 3")


def test_an_aborted_one_shot_method_does_not_claim_to_restore_the_original(tmp_path, caplog):
    before = tiny_whisper()
    model = copy.deepcopy(before)
    trainer = make_trainer(
        model,
        tmp_path,
        method="fisher",
        abort_when="test_loss > 0",
        arguments={"eval_dataset": {"test": RETAIN}},
    )
    trainer.train()
    assert trainer.stopping["reason"] == "aborted" and "restored_step" not in trainer.stopping
    assert "There is no earlier model to restore" in caplog.text
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters()))
