"""A run to compare resumed runs with."""

import pytest

from tests.trainer.checkpoints.checkpoint_runs import trainer_of


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run, with a checkpoint at each step."""
    trainer = trainer_of(tmp_path_factory.mktemp("straight"))
    trainer.train()
    return trainer
