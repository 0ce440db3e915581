"""By which samples an audit judges, and how fast it fine-tunes: neither depends on the unlearned
model."""

from types import SimpleNamespace

import pytest

from hf_unlearn import UnlearnConfig
from hf_unlearn.experiments.audit.audited_run import AuditedRun
from hf_unlearn.experiments.audit.gaps import rate
from hf_unlearn.experiments.audit.judged_split import choose_judged_split


class Counted:
    """An examiner of models that are the numbers of wrong words, of ten, in each utterance."""

    def __init__(self, **splits: list[int]):
        self.splits = splits

    def recognition(self, model: dict, rows: list[int]):
        return rate([model[row] for row in rows], [10] * len(rows), "WER (%)", "low")


def subjects(examiner: Counted, asked: str | None = None, **models: list[int]) -> dict:
    settings = SimpleNamespace(judged_split=asked)
    return {
        name: SimpleNamespace(model=model, examiner=examiner, settings=settings)
        for name, model in {"unlearned": [], **models}.items()
    }


@pytest.mark.parametrize(
    ("original", "retrained", "split"),
    [
        # the original knows more of the unseen utterances (the last six)
        ([0] * 6 + [1] * 6, [9] * 6 + [8, 7] * 3, "forget_test"),
        # it knows the recordings alone
        ([0] * 6 + [3] * 6, [3, 4] * 3 + [3] * 6, "forget"),
        # one unseen utterance proves nothing, but there is nothing else either
        ([0] * 12, [0] * 11 + [5], "forget_test"),
        ([3] * 12, [3] * 12, "forget_test"),
    ],
)
def test_samples_are_those_of_which_the_original_knows_more(original, retrained, split):
    examiner = Counted(forget_test=list(range(6, 12)), forget=list(range(6)))
    judged = choose_judged_split(subjects(examiner, original=original, retrained=retrained))
    assert judged["split"] == split and judged["samples"] == 6
    if split == "forget":
        assert judged["why"] == (
            "the original knows 35.0 points more of forget than the retrained model, but only 0.0 "
            "points more of forget_test"
        )
    else:
        assert "why" not in judged


def test_samples_can_be_asked_for():
    examiner = Counted(forget_test=[0], forget=[0])
    assert choose_judged_split(subjects(examiner, "forget"))["split"] == "forget"
    # Nothing to compare: no retrained model, or one split alone.
    assert choose_judged_split(subjects(examiner, original=[0]))["split"] == "forget_test"
    only = Counted(forget=[0])
    assert choose_judged_split(subjects(only, original=[0], retrained=[0]))["split"] == "forget"
    with pytest.raises(ValueError, match="is 'forget_test', but must be one of forget"):
        choose_judged_split(subjects(only, "forget_test"))


@pytest.mark.parametrize(
    ("optim", "base_model", "rate"),
    [("adamw_torch", None, 0.02), ("sgd", "some/model", 2e-5), ("sgd", None, 2e-6)],
)
def test_fine_tuning_has_a_rate_for_adamw(tmp_path, optim, base_model, rate):
    args = UnlearnConfig(str(tmp_path), learning_rate=0.2, optim=optim, report_to="none")
    options = SimpleNamespace(train_learning_rate=2e-5, base_model=base_model)
    recipe = SimpleNamespace(args=args, options=options)
    assert AuditedRun(tmp_path, recipe, {}, None).tuning_rate == pytest.approx(rate)
