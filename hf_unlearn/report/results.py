"""results.json, and the environment that a run was made in."""

import csv
import json
import math
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from .tables import MODULES

logger = logging.get_logger(__name__)

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "jiwer",
    "librosa",
    "peft",
    "scikit-learn",
    "numpy",
)


def write_results(path, results: dict) -> None:
    """Writes results.json whole or not at all, as strict JSON: what is no finite number becomes
    null."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(results), indent=2, allow_nan=False, ensure_ascii=False)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_results(folder) -> dict:
    """results.json of a run's output folder. Raises ValueError where there is none, or none that
    can be read."""
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise ValueError(f"there is no {path}: give the output_dir of a finished run")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(results, dict) or "config" not in results or "data" not in results:
        raise ValueError(
            f"{path} is no run's: it has no config or data. Give the output_dir of a finished run"
        )
    return results


def _plain(value):
    """`value` in JSON's types: NumPy numbers and arrays, tensors and paths converted, NaN and
    infinities as None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return _plain(value.tolist())
    raise TypeError(
        f"{value!r} ({type(value).__name__}) has no place in results.json: convert it first."
    )


def environment() -> dict:
    """Versions, hardware, CPU threads, UTC date, and the git commit where the package runs from a
    checkout."""
    return {
        "python": platform.python_version(),
        "packages": {
            name: version(name) for name in PACKAGES if find_spec(MODULES.get(name, name))
        },
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "cpu_threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def emissions(args) -> float | None:
    """Grams of CO2 equivalents of the last training in `args.output_dir`, where codecarbon
    (`args.report_to`) has measured them."""
    path = Path(args.output_dir) / "emissions.csv"
    if "codecarbon" not in args.report_to:  # a file that is there is of an earlier run
        return None
    try:
        rows = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []
        return 1000 * float(rows[-1]["emissions"]) if rows else None  # the file counts in kg
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(
            f"The emissions of the run are not told, since {path} cannot be read: {error!r}"
        )
        return None


def _processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit():
    """Commit of the checkout that holds this very file, with + where it has been changed; None
    outside of one."""
    here = Path(__file__)

    def git(*command):
        return subprocess.run(
            ["git", "-C", here.parent, *command], capture_output=True, text=True, check=True
        ).stdout

    try:
        # an installed copy can lie inside somebody else's checkout
        git("ls-files", "--error-unmatch", here.name)
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
