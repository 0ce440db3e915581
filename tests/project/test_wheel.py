"""The wheel in a fresh environment without the checkout: its recipes are listed, copied and run."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support.helpers import ROOT

pytestmark = pytest.mark.slow

SHIPPED = (
    "hf_unlearn",
    "model_cards",
    "recipes",
    "setup.cfg",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
TINY = (
    "--train_steps 2 --train_batch_size 4 --max_steps 2 --retain_size 10 "
    "--per_device_train_batch_size 4 --per_device_retain_batch_size 4 --max_eval_samples 10 "
    "--check_steps 1 --relearn_steps 1 --gold none --disable_tqdm true "
    "--stop_when forget_loss>=1000 --abort_when test_loss>1000"
).split()


def called(*command: str | Path, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The programs of an environment that has the wheel, and this environment's other packages."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SHIPPED:
        source, target = ROOT / name, folder / "source" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    called(*pip, "wheel", *offline, "--wheel-dir", folder, folder / "source")
    venv.create(folder / "environment", symlinks=True)
    programs = folder / "environment" / "bin"
    (packages,) = (folder / "environment" / "lib").glob("python*/site-packages")
    # A path added by a .pth file does not run other .pth files in it, so the checkout's editable
    # installation stays out.
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "others.pth").write_text("\n".join(others))
    called(*pip, "--python", programs / "python", "install", *offline, *folder.glob("*.whl"))
    return programs


def test_recipes_come_with_the_wheel(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options = {"cwd": tmp_path, "env": environment}
    # Imports nothing yet, which would take seconds.
    find = "import importlib.util; print(importlib.util.find_spec('hf_unlearn').origin)"
    where = called(installed / "python", "-c", find, **options)
    assert Path(where.strip()).is_relative_to(installed.parent)
    # It finds the recipe in the list that `hf-unlearn recipes` prints.
    called(installed / "hf-unlearn", "recipes", "copy", "digits", "mine", **options)
    # The copied script imports its own digits.py, and everything else from the installed package.
    flags = ("--output_dir", "out", "--dataset", "images", *TINY)
    called(installed / "hf-unlearn", "run", "mine/digits.yaml", *flags, **options)
    assert {"model.safetensors", "README.md", "results.json", "report.html"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
