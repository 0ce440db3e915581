"""`limit_at_retrained`: forget samples count until they have the retrained model's loss."""

import pytest

from hf_unlearn import UnlearnConfig
from hf_unlearn.experiments import unlearn
from hf_unlearn.experiments.checks.model_checks import check_options
from hf_unlearn.experiments.images.options import ImageRecipeArguments
from tests.recipes.shadow_recipe import shadow_recipe

pytestmark = pytest.mark.slow


def test_the_limit_is_the_retrained_models_loss(noise, tmp_path):
    recipe = shadow_recipe(noise, tmp_path, shadow_models=0, limit_at_retrained=True)
    results = unlearn(recipe)
    # The caller's own arguments stay as they were.
    assert recipe.args.max_forget_loss is None
    said = f"max_forget_loss={results['retrained']['forget']['loss']}"
    assert said in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    "options, config, message",
    [
        ({"gold": "none"}, {}, "limit_at_retrained needs the retrained model: set gold to"),
        ({}, {"max_forget_loss": 0.5}, "sets max_forget_loss, which is 0.5 already"),
        ({}, {"loss_temperature": 3}, "the losses of steps have loss_temperature 3"),
    ],
)
def test_where_there_is_no_such_loss_it_is_refused(options, config, message, tmp_path):
    options = {"model": "train", "gold": "train", "limit_at_retrained": True, **options}
    with pytest.raises(ValueError, match=message):
        check_options([ImageRecipeArguments(**options), UnlearnConfig(str(tmp_path), **config)])
