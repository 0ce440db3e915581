"""Checks that an sdist and a wheel hold every tracked file that belongs there, and nothing else.

python tests/project/distributions.py dist
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Folders of the repository that are installed as subpackages.
SUBPACKAGES = ("recipes", "model_cards")
# Cards of the recipes' own models: examples for readers of the repository.
NOT_INSTALLED = re.compile(r"model_cards/(?!__init__\.py|template\.md)")
# Of the repository alone.
NOT_RELEASED = {".gitignore"}
# What the build adds.
METADATA = re.compile(r"PKG-INFO|hf_unlearn\.egg-info/.*|hf_unlearn-[^/]*\.dist-info/.*")


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    listed.check_returncode()
    return set(listed.stdout.splitlines())


def installed(files: set[str]) -> set[str]:
    """The tracked files that belong into the wheel, under their paths there."""
    subpackages = tuple(f"{name}/" for name in SUBPACKAGES)
    moved = {
        f"hf_unlearn/{file}"
        for file in files
        if file.startswith(subpackages) and not NOT_INSTALLED.match(file)
    }
    return moved | {file for file in files if file.startswith("hf_unlearn/")}


def contents(archive: Path) -> set[str]:
    """The files in an sdist (below its top folder) or in a wheel, without the build's metadata."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            names = wheel.namelist()
    else:
        with tarfile.open(archive) as sdist:
            names = [member.name.partition("/")[2] for member in sdist if member.isfile()]
    return {name for name in names if not METADATA.fullmatch(name)}


def check(archive: Path, wanted: set[str]) -> list[str]:
    """The differences between an archive and the files that it should hold, one line each."""
    files = contents(archive)
    return [
        *(f"{archive.name} lacks {name}" for name in sorted(wanted - files)),
        *(f"{archive.name} holds {name}, which is not tracked" for name in sorted(files - wanted)),
    ]


def main(folder: Path) -> int:
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    files = tracked()
    differences = check(sdist, files - NOT_RELEASED) + check(wheel, installed(files))
    print("\n".join(differences) or f"{sdist.name} and {wheel.name} hold what they should")
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
