"""The recipes that come with the package: which there are, and where their scripts and YAMLs are."""

import ast
import shutil
from importlib import resources
from pathlib import Path

SCRIPT = "unlearn.py"


def recipes() -> dict[str, Path]:
    """The folder of each recipe, by its name."""
    root = Path(str(resources.files("hf_unlearn.recipes").joinpath("__init__.py"))).parent
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{SCRIPT}"))}


def configurations(folder: Path) -> list[Path]:
    """The YAMLs of a recipe that `hf-unlearn run` takes: all but those of `hf-unlearn compare`."""
    return [path for path in sorted(folder.glob("*.yaml")) if "compare" not in path.stem]


def listed() -> str:
    """What `hf-unlearn recipes` prints: each recipe with its purpose and its configurations."""
    lines = []
    for name, folder in recipes().items():
        purpose = ast.get_docstring(ast.parse((folder / SCRIPT).read_text(encoding="utf-8")))
        lines.append(f"{name}: {' '.join(purpose.partition(chr(10) * 2)[0].split())}")
        lines += [f"    {name}/{path.stem}" for path in configurations(folder)]
    return "\n".join(lines)


def found(name: str) -> tuple[Path, Path | None]:
    """Script and configuration of a recipe.

    Args:
        name: "vit_cifar10/class"; or "digits", which takes the configuration of the same name and
            no configuration where there is none.

    Raises:
        ValueError: there is no such recipe or configuration.
    """
    known = recipes()
    recipe, _, wanted = name.partition("/")
    if recipe not in known:
        raise ValueError(
            f"there is no file and no recipe {name}: the recipes are {', '.join(known)} "
            "(`hf-unlearn recipes` lists their configurations)"
        )
    folder = known[recipe]
    own = {path.stem: path for path in configurations(folder)}
    if wanted and wanted not in own:
        raise ValueError(f"the recipe {recipe} has no {wanted}: it has {', '.join(own)}")
    return folder / SCRIPT, own.get(wanted or recipe)


def copied(name: str, folder: Path) -> None:
    """Copies a recipe's files to `folder`, to be changed there.

    Raises:
        ValueError: there is no such recipe, or `folder` is not empty.
    """
    source = found(name)[0].parent
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and not empty: name another folder")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=ignored)
