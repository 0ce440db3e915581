"""Shadow models and LiRA on images that can only be learned by heart; models that runs share."""

import numpy as np
import pytest
from datasets import Dataset

from hf_unlearn.experiments import unlearn
from hf_unlearn.experiments.models import training
from hf_unlearn.experiments.models.shadow_models import split_in_halves, train_shadow_models
from hf_unlearn.metrics import ATTACKS
from tests.recipes.shadow_recipe import shadow_recipe

pytestmark = pytest.mark.slow


class Trained:
    """Replaces `fit`: records the number of rows of each training, and fails at training number
    `fails_at`."""

    def __init__(self, fit):
        self.fit, self.rows, self.fails_at = fit, [], None

    def __call__(self, recipe, model, rows, seed, folder):
        if len(self.rows) + 1 == self.fails_at:
            raise KeyboardInterrupt
        self.rows.append(len(rows))
        self.fit(recipe, model, rows, seed, folder)


@pytest.fixture
def trained(monkeypatch) -> Trained:
    trained = Trained(training.fit)
    monkeypatch.setattr(training, "fit", trained)
    return trained


def test_lira_tells_members_where_the_loss_cannot(noise, tmp_path):
    """Every image is learned by heart, so members are told with certainty. The retrained model
    knows none of them."""
    results = unlearn(shadow_recipe(noise, tmp_path, train_steps=20))
    assert all(set(rates) == set(ATTACKS) for rates in results["attacks"].values())
    assert results["attacks"]["original"]["lira_auc"] > 0.9
    assert 0.2 < results["attacks"]["retrained"]["lira_auc"] < 0.8
    assert results["attacks"]["original"]["lowest_fpr"] == 10.0
    assert "lira_tpr_at_lowest_fpr" in (tmp_path / "README.md").read_text()
    assert "lira_tpr_at_lowest_fpr" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("sizes, models", [((10, 10), 4), ((105, 11), 8), ((30, 40), 64)])
def test_the_models_that_know_a_sample_are_dealt_out_evenly(sizes, models):
    trained = split_in_halves(sizes, models, seed=0)
    assert trained.shape == (models, sum(sizes)) and (trained.sum(0) == models // 2).all()
    for group in np.split(trained, [sizes[0]], axis=1):
        assert (abs(group.sum(1) - group.shape[1] / 2) <= 1).all()
        _, counts = np.unique(group, axis=1, return_counts=True)
        assert counts.max() - group.shape[1] / min(2 ** (models // 2), group.shape[1]) < 1


def test_half_of_the_models_know_each_candidate(noise, tmp_path, trained):
    shadows = train_shadow_models(shadow_recipe(noise, tmp_path))
    # ten retained images, and half of the twenty candidates
    assert trained.rows == [10 + 10] * 4
    assert (
        shadows.trained.sum(0) == 2
    ).all() and shadows.trained.shape == shadows.confidences.shape == (4, 20)
    assert len(list((tmp_path / "shadows").glob("*/model.safetensors"))) == 4


def test_finished_shadow_models_are_not_trained_again(noise, tmp_path, trained):
    trained.fails_at = 3
    with pytest.raises(KeyboardInterrupt):
        train_shadow_models(shadow_recipe(noise, tmp_path))
    trained.fails_at = None
    first = train_shadow_models(shadow_recipe(noise, tmp_path))
    assert len(trained.rows) == 4
    again = train_shadow_models(shadow_recipe(noise, tmp_path))
    assert len(trained.rows) == 4 and (again.confidences == first.confidences).all()


def test_runs_share_models_by_their_content(noise, tmp_path, trained):
    """Other methods and seeds of unlearning share them, and requests to forget something else share
    the original; other data and training options do not."""

    def all_models(output, method, seed, **changes):
        run = shadow_recipe(noise, tmp_path / output, method, seed, **shared | changes)
        train_shadow_models(run)
        return [training.train(run, role) for role in ("original", "retrained")]

    shared = {"models_dir": str(tmp_path / "models"), "train_seed": 0}
    first = all_models("a", "orthograd", seed=0)
    assert trained.rows == [20, 20, 20, 20, 20, 10]
    assert (
        all_models("b", "gradient_difference", seed=1, relearn_samples=3) == first
        and len(trained.rows) == 6
    )
    other = shadow_recipe(noise, tmp_path / "d", forgotten="dog", **shared)
    assert training.train(other, "original") == first[0] and len(trained.rows) == 6
    for number, change in enumerate(({"train_flip": True}, {"train_seed": 1}), start=1):
        training.train(shadow_recipe(noise, tmp_path / "c", **shared | change), "retrained")
        assert len(trained.rows) == 6 + number, change


def test_other_pictures_under_the_same_names_make_other_models(noise, tmp_path):
    pool = shadow_recipe(noise, tmp_path).splits.retain_pool
    rows = pool.to_list()
    assert training.rows_digest(Dataset.from_list(rows, pool.features)) == training.rows_digest(
        pool
    )
    rows[3]["image"]["path"] = rows[4]["image"]["path"]
    assert training.rows_digest(Dataset.from_list(rows, pool.features)) != training.rows_digest(
        pool
    )


@pytest.mark.parametrize("count", [2, 5])
def test_numbers_of_models_that_cannot_work_are_refused(noise, tmp_path, count):
    with pytest.raises(ValueError, match=f"shadow_models is {count}: give an even number from 4"):
        train_shadow_models(shadow_recipe(noise, tmp_path, shadow_models=count))
