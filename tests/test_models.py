"""What all models and trainers have in common."""

from types import SimpleNamespace

import pytest

from hf_unlearn.models import replaced


def test_replaced_attributes_get_their_values_back():
    trainer = SimpleNamespace(args="given", model="given")
    with replaced(trainer, args="other"):
        assert (trainer.args, trainer.model) == ("other", "given")
    assert trainer.args == "given"


def test_replaced_attributes_get_their_values_back_after_an_error():
    trainer = SimpleNamespace(args="given")
    with pytest.raises(RuntimeError), replaced(trainer, args="other"):
        raise RuntimeError
    assert trainer.args == "given"


def test_only_what_exists_is_replaced():
    trainer = SimpleNamespace()
    with pytest.raises(AttributeError), replaced(trainer, args="other"):
        pass
    assert not vars(trainer)
