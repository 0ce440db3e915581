"""The recipes that come with the package: their names, scripts and configurations."""

import ast
import shutil
from importlib import resources
from pathlib import Path

from ..files.yaml_files import read_yaml

SCRIPT = "unlearn.py"


def recipes_root() -> Path:
    """The folder that holds the recipes.

    Raises:
        ModuleNotFoundError: the installation lacks the recipes.
    """
    return Path(str(resources.files("hf_unlearn.recipes").joinpath("__init__.py"))).parent


def recipe_folders() -> dict[str, Path]:
    """The folder of each recipe, by its name."""
    return {path.parent.name: path.parent for path in sorted(recipes_root().glob(f"*/{SCRIPT}"))}


def configurations(folder: Path) -> dict[str, Path]:
    """The YAML files that `hf-unlearn run` takes, by their names; not those of `hf-unlearn
    compare`, the only ones with the key `methods`.

    Raises:
        ValueError: a file does not hold keys and values in YAML.
    """
    files = sorted(folder.glob("*.yaml"))
    return {path.stem: path for path in files if "methods" not in read_yaml(path)}


def overview() -> str:
    """What `hf-unlearn recipes` prints: each recipe with its purpose and its configurations."""
    lines = []
    for name, folder in recipe_folders().items():
        script = ast.parse((folder / SCRIPT).read_text(encoding="utf-8"))
        described = ast.get_docstring(script) or ""
        purpose = " ".join(described.split("\n\n")[0].split())
        lines.append(f"{name}: {purpose}" if purpose else name)
        lines += [f"    {name}/{configuration}" for configuration in configurations(folder)]
    return "\n".join(lines)


def find_recipe(name: str) -> tuple[Path, Path | None]:
    """The script and the configuration of a recipe.

    Args:
        name: "vit_cifar10/class" for a certain configuration; "digits" for the one with the
            recipe's own name, or for none where there is no such file.

    Raises:
        ValueError: there is no such recipe or configuration.
    """
    folders = recipe_folders()
    recipe, _, wanted = name.partition("/")
    if recipe not in folders:
        raise ValueError(
            f"there is no file and no recipe {name}: the recipes are {', '.join(folders)} "
            "(`hf-unlearn recipes` lists their configurations)"
        )
    files = configurations(folders[recipe])
    if wanted and wanted not in files:
        raise ValueError(
            f"the recipe {recipe} has no configuration {wanted}: it has {', '.join(files)}"
        )
    return folders[recipe] / SCRIPT, files.get(wanted or recipe)


def copy_recipe(name: str, folder: Path) -> None:
    """Copies a recipe's files to `folder`, where they can be changed and run. Paths of the recipe's
    own files in YAML files become those of the copies.

    Raises:
        ValueError: there is no such recipe, or `folder` is not empty.
    """
    script, _ = find_recipe(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} already exists and is not empty: name another folder")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(script.parent, folder, dirs_exist_ok=True, ignore=ignored)
    for file in folder.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        file.write_text(
            text.replace(f"recipes/{script.parent.name}/", f"{folder.as_posix()}/"),
            encoding="utf-8",
        )


def script_path(name: str) -> Path:
    """A recipe's script, given by its path or by the recipe's name."""
    path = Path(name)
    return path if path.suffix == ".py" else find_recipe(name)[0]


def configuration_path(name: str) -> Path:
    """A configuration, given by its path or by its name ("digits/digits").

    Raises:
        ValueError: there is no such recipe or configuration.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    _, configuration = find_recipe(name)
    if configuration is None:
        raise ValueError(f"the recipe {name} has several configurations: give one as {name}/NAME")
    return configuration
