"""The packages, requirements, versions and configurations of accelerate agree with the tree and
with each other."""

import ast
import configparser
import re
import runpy
from pathlib import Path

import pytest
import setuptools
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from packaging.requirements import Requirement
from packaging.version import Version

import hf_unlearn
from tests.support.helpers import ROOT

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def test_every_package_is_in_the_wheel(monkeypatch):
    monkeypatch.chdir(ROOT)
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "hf_unlearn").rglob("*.py")
    }
    # These two come from folders beside hf_unlearn.
    packages |= {"hf_unlearn.model_cards", "hf_unlearn.recipes"}
    metadata = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: metadata.update(options))
    runpy.run_path("setup.py")
    assert set(metadata["packages"]) == packages


# Files of the repository, in its folders or at its top, except README.md, which every run writes.
OF_REPOSITORY = re.compile(
    r"(?<![\w/])(?:(?:docs|tests|recipes|model_cards)/\w[\w./-]*"
    r"|CHANGELOG\.md|CONTRIBUTING\.md|Makefile|pyproject\.toml|setup\.cfg)"
)


def texts_of(path: Path) -> list[str]:
    """What users may see of a module: its docstrings, messages and help texts."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def test_texts_name_no_file_that_an_installation_lacks():
    """Users of the wheel have no docs/, and its recipes are in another folder."""
    assert OF_REPOSITORY.findall("see docs/methods.md, recipes/demo/demo.yaml and CHANGELOG.md.")
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / "hf_unlearn").rglob("*.py")
        for name in OF_REPOSITORY.findall("\n".join(texts_of(path)))
    }
    assert not named


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert cited == hf_unlearn.__version__


def test_every_requirement_has_a_tested_version():
    extras = "".join(SETUP["options.extras_require"].values())
    requirements = SETUP["options"]["install_requires"] + extras
    names = {re.match(r"[\w-]+", line)[0] for line in requirements.splitlines() if line}
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    assert names <= pinned, f"constraints.txt lacks {names - pinned}"


def versions(lines: list[str], operator: str) -> dict[str, Version]:
    """{package: the version that a requirement names with an operator}"""
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        one.name: Version(bound.version)
        for one in requirements
        for bound in one.specifier
        if bound.operator == operator
    }


def test_the_lowest_versions_are_those_of_setup():
    extras = SETUP["options.extras_require"]
    parts = [SETUP["options"]["install_requires"], *map(extras.get, ("audit", "demo", "test"))]
    lowest = versions("".join(parts).splitlines(), ">=")
    tested = versions((ROOT / "requirements-lowest.txt").read_text().splitlines(), "==")
    assert lowest == tested


@pytest.mark.parametrize(
    "file", list((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda file: file.stem
)
def test_accelerate_reads_the_configurations(file):
    config = load_config_from_file(str(file))
    assert config.num_processes >= 1 and config.use_cpu == (file.stem == "cpu")
    table = (file.parent / "README.md").read_text()
    assert f"| `{file.name}` |" in table
