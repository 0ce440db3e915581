"""What setup.cfg and constraints.txt promise about the tree and about each other."""

import ast
import configparser
import re
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def test_every_package_is_installed():
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "hf_unlearn").rglob("__init__.py")}
    assert set(SETUP["options"]["packages"].split()) == found | {"hf_unlearn.model_cards"}


def test_every_requirement_has_a_tested_version():
    wanted = SETUP["options"]["install_requires"] + "".join(SETUP["options.extras_require"].values())
    names = {re.match(r"[\w-]+", line)[0] for line in wanted.splitlines() if line}
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names <= pinned, f"without a line in constraints.txt: {names - pinned}"


# What each part may import of ours; a part that is not named here may import all of them.
ALLOWED = {
    "ops": set(),
    "per_sample": {"ops"},
    "methods": {"per_sample", "ops"},
    "data": set(),
    "metrics": set(),
    "scales": set(),
    "tasks": {"scales"},
    "metadata": set(),
    "usage": set(),
    "after_run": set(),
    "config": {"redaction"},
    "seeded": set(),
    "retain": {"seeded"},
    "checkpoints": {"per_sample"},
    "deepspeed": set(),
    "evaluation": {"metrics", "scales", "tasks"},
    "redaction": set(),
    "trackers": {"redaction"},
    "report": {"tasks", "metrics", "scales"},
    "settings": set(),
    "html_report": {"redaction", "report", "settings", "tasks"},
    "model_card": {"redaction", "report", "settings", "tasks", "metadata", "usage"},
    "hub": {"model_card", "redaction", "report", "tasks"},
    "publishing": {"html_report", "hub", "model_card", "redaction", "report", "after_run", "metadata", "scales", "usage"},
    "saving": {"checkpoints", "per_sample", "publishing"},
    "samples": {"compatibility", "distributed", "guards", "per_sample", "step"},
    "trainer": {"config", "methods", "per_sample", "preparation", "retain", "stopping", "step", "distributed", "guards",
                "checkpoints", "compatibility", "seeded", "samples", "saving", "trackers", "deepspeed", "publishing"},
}  # fmt: skip


def imported_parts(path: Path) -> set[str]:
    """The modules and packages directly under hf_unlearn that a file of ours imports."""
    inside, parts = path.relative_to(ROOT / "hf_unlearn").parts, set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == len(inside):  # from the top: `from . import` in a module
            parts |= {node.module.split(".")[0]} if node.module else {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module.startswith("hf_unlearn"):
            parts |= set(node.module.split(".")[1:2])
    return parts


def test_imports_go_one_way():
    wrong = []
    for path in (ROOT / "hf_unlearn").rglob("*.py"):
        part = path.relative_to(ROOT / "hf_unlearn").parts[0].removesuffix(".py")
        if part in ALLOWED and (more := imported_parts(path) - ALLOWED[part] - {part}):
            wrong.append(f"{path.relative_to(ROOT)} imports {', '.join(sorted(more))}")
    assert not wrong, wrong


@pytest.mark.parametrize("file", list((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_the_configurations(file):
    config = load_config_from_file(str(file))
    assert config.num_processes >= 1 and config.use_cpu == (file.stem == "cpu")
    table = (file.parent / "README.md").read_text()
    assert f"| `{file.name}` |" in table
