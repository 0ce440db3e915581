"""The structure of the package: what may import what, no circles, no reach into private names."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_unlearn"

# What each room (a package or module directly under hf_unlearn) may import of the others.
ALLOWED = {
    "__init__": {"config", "methods", "trainer"},
    "cli": {"config", "experiments", "hub", "ops", "privacy", "report", "yaml_files"},
    "config": {"privacy"},
    "data": {"files"},
    "evaluation": {"metrics", "per_sample", "report"},
    "experiments": {
        "config", "data", "evaluation", "files", "hub", "methods", "metrics", "privacy", "report", "trainer", "yaml_files",
    },
    "files": set(),
    "hub": {"files", "privacy", "report", "yaml_files"},
    "methods": {"ops", "per_sample"},
    "metrics": set(),
    "ops": set(),
    "per_sample": {"ops"},
    "privacy": set(),
    "report": {"files", "metrics", "privacy"},
    "trainer": {
        "config", "files", "hub", "methods", "metrics", "ops", "per_sample", "privacy", "report",
    },
    "yaml_files": {"files"},
}  # fmt: skip


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of each module, by its dotted name without hf_unlearn."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts)] = ast.parse(path.read_text())
    return found


def imports(module: str) -> set[str]:
    """The modules of ours that a module imports anywhere, for type checking too."""
    known, found = trees(), set()
    for node in ast.walk(known[module]):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = module.split(".")[: -node.level]
        elif node.module.split(".")[0] == "hf_unlearn":
            base = []
        else:
            continue
        named = (node.module or "").split(".") if node.level else node.module.split(".")[1:]
        target = [*base, *filter(None, named)]
        for name in node.names:
            candidates = (
                [*target, name.name],
                [*target, name.name, "__init__"],
                target,
                [*target, "__init__"],
            )
            hits = (".".join(parts) for parts in candidates)
            found.add(next((hit for hit in hits if hit in known), module))
    return found - {module}


def test_rooms_import_only_what_they_may():
    wrong = []
    for module in trees():
        room = module.split(".")[0]
        rooms = {other.split(".")[0] for other in imports(module)} - {room}
        if more := rooms - ALLOWED[room]:
            wrong.append(f"{module} imports {', '.join(sorted(more))}")
    assert not wrong, wrong


def test_there_are_few_rooms_with_few_imports_between_them():
    between = {(a.split(".")[0], b.split(".")[0]) for a in trees() for b in imports(a)}
    assert len(ALLOWED) <= 18
    assert len({(a, b) for a, b in between if a != b}) <= 45


def test_no_imports_go_in_a_circle():
    """A package's __init__ counts as its modules' caller alone: it only hands on their names."""
    graph = {name: {n for n in imports(name) if not n.endswith("__init__")} for name in trees()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {' -> '.join([*above[above.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


# Private names of other libraries that we have to use or override.
FOREIGN = {"_is_accelerate_prepared", "_prepare_inputs"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_definitions(tree: ast.Module) -> set[str]:
    """The private functions, classes, methods, variables and attributes that a module makes."""
    made = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            made.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
    return {name for name in made if private(name)}


def test_nobody_reaches_into_the_private_names_of_another_module():
    made = {module: private_definitions(tree) for module, tree in trees().items()}
    everything, wrong = set().union(*made.values()), []
    for module, tree in trees().items():
        foreign = everything - made[module] - FOREIGN
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (
                node.level or node.module.startswith("hf_unlearn")
            ):
                wrong += [f"{module} imports {n.name}" for n in node.names if private(n.name)]
            elif isinstance(node, ast.Attribute) and node.attr in foreign:
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                inherited = (
                    isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
                )
                if not own and not inherited:
                    wrong.append(f"{module}:{node.lineno} uses {ast.unparse(node)}")
    assert not wrong, wrong
