"""Methods that users register under a name, one of them with an argument that has no default."""

import pytest

from hf_unlearn import METHODS, Method, UnlearnConfig
from hf_unlearn.methods import WeightedSum, build_method, names_with
from tests.support.tiny import FORGET, make_trainer, tiny_whisper


class BoundedAscent(Method):
    ascends_forget_loss = True

    def __init__(self, bound: float):
        self.bound = bound


@pytest.fixture
def bounded_ascent(monkeypatch):
    monkeypatch.setitem(METHODS, "bounded_ascent", BoundedAscent)
    return BoundedAscent


@pytest.mark.parametrize("attribute", ["ascends_forget_loss", "keeps_forgotten"])
def test_names_are_those_of_the_methods_as_they_are_made_by_default(attribute):
    assert names_with(attribute) == [n for n, make in METHODS.items() if getattr(make(), attribute)]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"forget_objective": "silence"}, "does not ascend one: use orthograd, .* bounded_ascent,"),
        ({"max_forget_loss": 2.0}, "not ascend the forget loss: use .*pgu or bounded_ascent"),
        (
            {"arguments": {"previous_forget_dataset": FORGET}},
            "no per-sample projection: use orthograd or orthograd_metric, or leave it out",
        ),
    ],
)
def test_messages_list_methods_without_making_them(bounded_ascent, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_whisper(), tmp_path, method="finetune", **options)


def test_a_missing_argument_is_named(bounded_ascent, tmp_path):
    args = {"output_dir": str(tmp_path), "method": "bounded_ascent", "use_cpu": True}
    with pytest.raises(ValueError, match="no default for bound: give a value"):
        build_method(UnlearnConfig(**args))
    assert build_method(UnlearnConfig(**args, method_kwargs={"bound": 3.0})).bound == 3.0


def test_a_function_may_take_any_keywords(monkeypatch, tmp_path):
    def make(**weights):
        return WeightedSum(**{"forget_weight": -1.0, "retain_weight": 1.0, **weights})

    monkeypatch.setitem(METHODS, "weighted", make)
    args = UnlearnConfig(output_dir=str(tmp_path), method="weighted", use_cpu=True)
    assert build_method(args).forget_weight == -1.0


def test_a_function_names_what_its_method_does_unless_it_needs_arguments(monkeypatch):
    def ascend(weight: float = 1.0) -> Method:
        return WeightedSum(forget_weight=-weight, retain_weight=0.0)

    def ascend_by(weight: float) -> Method:
        return ascend(weight)

    monkeypatch.setitem(METHODS, "ascend", ascend)
    monkeypatch.setitem(METHODS, "ascend_by", ascend_by)
    names = names_with("ascends_forget_loss")
    assert "ascend" in names and "ascend_by" not in names
