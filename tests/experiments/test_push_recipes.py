"""A recipe refuses a push that could only fail before it trains anything."""

from types import SimpleNamespace

import pytest

from hf_unlearn.experiments import unlearn
from hf_unlearn.experiments.checks.push_checks import check_push_of_recipe
from hf_unlearn.hub.upload import HubError


def recipe(tmp_path, **options) -> SimpleNamespace:
    """As much of a recipe as is asked before anything is trained."""
    options = {"dry_run": False, "evaluate": False, "lora_r": 0, "model": "train", **options}
    args = SimpleNamespace(
        push_to_hub=True,
        hub_model_id=options.pop("hub_model_id", "tester/quiet"),
        output_dir=str(tmp_path),
        hide_names=[],
        name_forgotten=False,
        process_index=0,
        hub_token=options.pop("hub_token", None),
    )
    splits = SimpleNamespace(describe=lambda: {"speakers": {"forget": ["anna-karenina"]}})
    return SimpleNamespace(
        task="speakers",
        options=SimpleNamespace(**options),
        args=args,
        splits=splits,
        forgotten_before={},
    )


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_r": 4}, "the model trained here, is not on the Hub.*--merge"),
        ({"lora_r": 4, "model": "/tmp"}, "base model, /tmp, is not on the Hub"),
        ({"hub_model_id": "me/without_AnnaKarenina"}, "names a forgotten person"),
    ],
)
def test_what_cannot_be_pushed_is_refused_first(hub, tmp_path, options, message, dry_run):
    with pytest.raises(ValueError, match=message):
        unlearn(recipe(tmp_path, dry_run=dry_run, **options))
    assert not hub.received


def test_a_token_that_the_hub_does_not_know_is_refused_first(hub, tmp_path):
    with pytest.raises(HubError, match="hf auth login"):
        unlearn(recipe(tmp_path, hub_token="hf_notTheOneThatIsKnown"))
    # with a good one, all is well
    check_push_of_recipe(recipe(tmp_path))
    assert not hub.commits and not hub.files
