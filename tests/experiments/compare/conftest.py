"""A comparison of runs of a recipe that only computes numbers."""

import csv
from pathlib import Path

import pytest
import yaml

from hf_unlearn.cli import main

RECIPE = Path(__file__).with_name("fake_recipe.py").read_text()


@pytest.fixture
def comparison(tmp_path):
    recipe, output = tmp_path / "recipe.py", tmp_path / "out"
    recipe.write_text(RECIPE)
    settings = [{"alpha": 0.1}, {"alpha": 0.55}, {"alpha": 0.6}, {"alpha": 0.9}]
    content = {
        "recipe": str(recipe),
        "config": "none.yaml",
        "output_dir": str(output),
        "target": "speaker",
        "tune_on": ["anna"],
        "report_on": ["bert", "carl"],
        "seeds": [1, 2],
        "vary": {"size": [48, 400]},
        "methods": {"orthograd": settings, "finetune": settings},
        "score": "test_wer",
        "processes": 2,
    }

    def run(**changes):
        file = tmp_path / "compare.yaml"
        file.write_text(yaml.safe_dump({**content, **changes}))
        return main(["compare", str(file)]), output

    return run


def rows_of(output: Path) -> list[dict]:
    with open(output / "runs.csv", newline="") as file:
        return list(csv.DictReader(file))
