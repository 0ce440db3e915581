"""What was measured of the original and the retrained model is cached in `models_dir`."""

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_unlearn.experiments.models.shadow_models import ShadowModels
from hf_unlearn.experiments.progress import TIMES
from hf_unlearn.experiments.running import measurements
from hf_unlearn.experiments.running.measurement_cache import depends_on, measured_or_cached
from hf_unlearn.experiments.speech import ctc
from tests.recipes import recognisers
from tests.recipes.noise import write_noise
from tests.recipes.shadow_recipe import shadow_recipe

pytestmark = pytest.mark.slow

MEASURED = (
    *("original", "retrained", "unlearned", "gap", "history"),
    *("attacks", "per_speaker", "transcripts"),
)


@pytest.fixture
def evaluated(monkeypatch) -> list:
    """The models whose splits are evaluated, in their order."""
    models, evaluate = [], measurements.evaluate_splits

    def counted(trainer, splits):
        models.append(trainer.model)
        return evaluate(trainer, splits)

    monkeypatch.setattr(measurements, "evaluate_splits", counted)
    return models


def cached(folder: Path) -> list[Path]:
    return sorted((folder / "models" / "measurements").iterdir())


@pytest.mark.usefixtures("cache")
def test_a_second_run_reads_what_the_first_has_measured(data, tmp_path, evaluated, capsys):
    """Its results are the same to the digit, those of steps that draw random numbers included:
    this model has dropout."""
    models = {
        "model": recognisers.saved(recognisers.wav2vec2, tmp_path / "model"),
        "gold": recognisers.save(tmp_path / "gold", *recognisers.wav2vec2()),
        "models_dir": tmp_path / "models",
    }

    def run(out: str) -> tuple[dict, str]:
        options = {**models, "method": "gradient_difference"}
        ctc.main(recognisers.flags(data, tmp_path / out, **options))
        results = json.loads((tmp_path / out / "results.json").read_text())
        results["history"] = [
            {name: value for name, value in row.items() if not name.endswith(TIMES)}
            for row in results["history"]
        ]
        return {name: results[name] for name in MEASURED}, capsys.readouterr().out

    first, said = run("first")
    assert len(evaluated) == 3 and len(cached(tmp_path)) == 2 and "not measured again" not in said
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in cached(tmp_path))
    again, said = run("again")
    assert again == first and len(evaluated) == 4
    for role in ("original", "retrained"):
        assert said.count(f"the {role} model is not measured again: its results are in") == 1


def test_a_file_that_cannot_be_read_is_written_again(tmp_path, evaluated):
    models = {"models_dir": str(tmp_path / "models"), "shadow_models": 0}
    recipe = shadow_recipe(write_noise(tmp_path / "noise", 4), tmp_path / "out", **models)

    def found():
        torch.manual_seed(0)
        trainer = recipe.evaluation_trainer(recipe.load_model(None))
        return measured_or_cached(recipe, trainer, "retrained", None)

    first = found()
    assert found() == first and len(evaluated) == 1
    (file,) = cached(tmp_path)
    written = file.read_text()
    file.write_text("{")
    assert found() == first and len(evaluated) == 2
    assert file.read_text() == written


def test_what_measurements_depend_on(tmp_path):
    noise = write_noise(tmp_path / "noise", 4)

    def parts(weights: int = 0, images: Path = noise, shadows=None, **options) -> dict[str, str]:
        recipe = shadow_recipe(images, tmp_path / "out", **options)
        torch.manual_seed(weights)
        trainer = recipe.evaluation_trainer(recipe.load_model(None))
        return depends_on(recipe, trainer, shadows)

    def changed(**changes) -> list[str]:
        return [name for name, part in parts(**changes).items() if part != first[name]]

    first = parts()
    assert changed() == changed(method="gradient_difference", trainable="head", lora_r=2) == []
    assert changed(weights=1) == ["weights"]
    assert changed(relearn_samples=3) == ["recipe"]
    assert "trainer" in changed(seed=1)
    shadows = ShadowModels({"a": 0}, np.zeros((4, 1)), np.ones((4, 1)))
    assert changed(shadows=shadows) == ["shadow models"]
    other = write_noise(tmp_path / "other" / "noise", 4)
    shutil.copyfile(other / "test" / "dog" / "1.png", other / "test" / "dog" / "0.png")
    assert changed(images=other) == ["rows", "data"]
