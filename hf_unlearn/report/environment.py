"""The environment of a run: versions, hardware, the commit, and measured emissions."""

import csv
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Package -> module
PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "datasets": "datasets",
    "evaluate": "evaluate",
    "jiwer": "jiwer",
    "librosa": "librosa",
    "peft": "peft",
    "scikit-learn": "sklearn",
    "numpy": "numpy",
}


def environment() -> dict:
    """Versions, hardware, CPU threads and UTC date.

    The git commit is included if the package runs from a checkout.
    """
    return {
        "python": platform.python_version(),
        "packages": {
            package: version(package) for package, module in PACKAGES.items() if find_spec(module)
        },
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor_name(),
        "cpu_threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": git_commit(Path(__file__)),
    }


def emissions(args: TrainingArguments) -> float | None:
    """CO2 equivalents of the last training in `args.output_dir`, in grams.

    None unless codecarbon measured them (`args.report_to`).
    """
    path = Path(args.output_dir) / "emissions.csv"
    # Without codecarbon in report_to, the file is left over from an earlier run.
    if "codecarbon" not in args.report_to:
        return None
    try:
        rows = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []
        # The file is in kg.
        return 1000 * float(rows[-1]["emissions"]) if rows else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(f"The results omit the run's emissions: cannot read {path}: {error!r}")
        return None


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_commit(file: Path) -> str | None:
    """Commit of the checkout that tracks `file`, with "+" if it has changes; None if there is no
    such checkout."""

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", file.parent, *command], capture_output=True, text=True, check=True
        ).stdout

    try:
        # An installed copy can lie inside somebody else's checkout, which does not track it.
        git("ls-files", "--error-unmatch", file.name)
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
