"""The structure of the package: few rooms, no circles of imports, no use of other modules' private
names.

A room is a package or module directly under hf_unlearn.
"""

import ast
import importlib
import pydoc
import re
import subprocess
import sys
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hf_unlearn"
MAX_ROOMS, MAX_IMPORTS_BETWEEN_ROOMS = 18, 45
# in one folder
MAX_MODULES = 18

# The other rooms that each room may import.
ALLOWED = {
    "__init__": {"config", "methods", "trainer"},
    "cli": {"experiments", "hub", "ops", "privacy", "report"},
    "config": {"privacy"},
    "data": {"files"},
    "evaluation": {"metrics", "models"},
    "experiments": set(
        "config data evaluation files hub methods metrics privacy report trainer".split()
    ),
    "files": set(),
    "hub": {"files", "metrics", "privacy", "report"},
    "methods": {"models", "ops", "per_sample"},
    "metrics": set(),
    "models": set(),
    "ops": set(),
    "per_sample": {"models", "ops"},
    "privacy": {"files"},
    "report": {"files", "metrics", "privacy"},
    "trainer": set("config files hub methods metrics models ops per_sample privacy report".split()),
}


# Private names of other libraries that we have to use or override.
FOREIGN = {"_get_output_dir", "_is_accelerate_prepared", "_prepare_inputs", "_save"}


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of each module, by its dotted name within hf_unlearn."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(source(path))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def source(path: Path) -> str:
    """The text of a module, with that of its stub, which names what the module loads later."""
    stub = path.with_suffix(".pyi")
    return path.read_text() + (stub.read_text() if stub.is_file() else "")


def room_of(module: str) -> str:
    return module.split(".")[0]


def place_of(module: str) -> str:
    """What a reader of a room sees: a folder in it, or a module that lies in no folder."""
    return ".".join(module.split(".")[:2])


# ---- imports -------------------------------------------------------------------------------------


def imported_modules(module: str) -> set[str]:
    """The modules of this package that a module imports, also in functions or for type checking."""
    modules = set()
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.Import):
            dotted = [name.name.split(".") for name in node.names]
            modules |= {module_at(parts[1:]) for parts in dotted if parts[0] == "hf_unlearn"}
        elif isinstance(node, ast.ImportFrom):
            package = imported_package(module, node)
            if package is not None:
                # A name is a module of the package, or is defined in its __init__ or module.
                modules |= {module_at([*package, n.name]) or module_at(package) for n in node.names}
    return modules - {module, None}


def imported_package(module: str, node: ast.ImportFrom) -> list[str] | None:
    """What stands between "from" and "import", within hf_unlearn; None for other packages."""
    named = node.module.split(".") if node.module else []
    if node.level:
        return [*module.split(".")[: -node.level], *named]
    return named[1:] if named[0] == "hf_unlearn" else None


def module_at(parts: list[str]) -> str | None:
    """The key of `trees` for a module or package; None if there is none."""
    candidates = (".".join(parts), ".".join([*parts, "__init__"]))
    return next((name for name in candidates if name in trees()), None)


def test_rooms_import_only_what_they_may():
    forbidden = []
    for module in trees():
        room = room_of(module)
        rooms = {room_of(other) for other in imported_modules(module)} - {room}
        if more := rooms - ALLOWED[room]:
            forbidden.append(f"{module} imports {', '.join(sorted(more))}")
    assert not forbidden


# Rooms of which others import only what the __init__ names.
CLOSED = {"trainer"}
# Folders whose modules other rooms import: recipes are put together from those of their kind of
# data, and the command line starts its commands in the module of each.
OPEN = {
    *("data.images", "data.speech"),
    *("experiments.audit", "experiments.compare", "experiments.verification"),
}


def may_be_imported(module: str) -> bool:
    """Whether other rooms may import a module: it lies in no folder of its room, or is the __init__
    of one, or its folder is open."""
    if room_of(module) in CLOSED:
        return module == f"{room_of(module)}.__init__"
    in_folder = module.count(".") > 1 and not module.endswith(".__init__")
    return not in_folder or place_of(module) in OPEN


def test_rooms_import_nothing_from_inside_another():
    inner = [
        f"{module} imports {other}"
        for module in trees()
        for other in imported_modules(module)
        if room_of(module) != room_of(other) and not may_be_imported(other)
    ]
    assert not inner


def test_there_are_few_rooms_with_few_imports_between_them():
    pairs = {(room_of(a), room_of(b)) for a in trees() for b in imported_modules(a)}
    assert len(ALLOWED) <= MAX_ROOMS
    assert len({(a, b) for a, b in pairs if a != b}) <= MAX_IMPORTS_BETWEEN_ROOMS


def test_no_folder_holds_too_many_modules():
    """A reader finds a module by its folder."""
    counts = Counter(module.rpartition(".")[0] for module in trees() if "__init__" not in module)
    assert not {folder: count for folder, count in counts.items() if count > MAX_MODULES}


def test_no_imports_go_in_a_circle():
    """An __init__ only hands on names of its package, so importing it does not count."""
    finished: set[str] = set()

    def visit(module: str, importers: tuple[str, ...]) -> None:
        circle = [*importers[importers.index(module) :], module] if module in importers else []
        assert not circle, f"a circle: {' -> '.join(circle)}"
        if module not in finished:
            for other in sorted(imported_modules(module)):
                if not other.endswith("__init__"):
                    visit(other, (*importers, module))
            finished.add(module)

    for module in trees():
        visit(module, ())


def imported_places() -> dict[str, set[str]]:
    """For each place, the others in its room that it imports. The room's __init__ is none: it only
    hands on names."""
    imports = {place_of(module): set() for module in trees()}
    for module in trees():
        of_room = {place_of(o) for o in imported_modules(module) if room_of(o) == room_of(module)}
        imports[place_of(module)] |= of_room - {place_of(module), f"{room_of(module)}.__init__"}
    return imports


def reachable(place: str, imports: dict[str, set[str]]) -> set[str]:
    """What a place imports, directly or through others."""
    reached, new = set(), imports[place]
    while new:
        reached |= new
        new = set().union(*(imports[other] for other in new)) - reached
    return reached


def test_folders_of_a_room_import_each_other_in_no_circle():
    """Each folder of a room, and each module beside them, stands above or below the others."""
    imports = imported_places()
    reached = {place: reachable(place, imports) for place in imports}
    circles = {
        " <-> ".join(sorted(other for other in reached[place] if place in reached[other]))
        for place in imports
        if place in reached[place]
    }
    assert not circles


# ---- classes -------------------------------------------------------------------------------------


def test_the_trainer_is_two_classes():
    """What it consists of is composed, not inherited."""
    trainers = {
        node.name
        for module, tree in trees().items()
        if room_of(module) == "trainer"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith("Trainer") for base in node.bases)
    }
    assert trainers == {"SampleMeanTrainer", "UnlearnTrainer"}


# How a part of the trainer names the trainer that it was given.
TRAINER = {"trainer", "self._trainer", "type(trainer)"}


@cache
def views() -> dict[str, set[str]]:
    """The members of each protocol of a trainer, with those of its bases."""
    classes = {
        node.name: node
        for module, tree in trees().items()
        if room_of(module) == "trainer"
        for node in tree.body
        if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases)
        # Protocols of forget sets are looked for at runtime.
        if "runtime_checkable" not in map(ast.unparse, node.decorator_list)
    }

    def members(kind: ast.ClassDef) -> set[str]:
        names = {n.target.id for n in kind.body if isinstance(n, ast.AnnAssign)}
        names |= {n.name for n in kind.body if isinstance(n, ast.FunctionDef)}
        bases = [classes[base] for base in map(ast.unparse, kind.bases) if base in classes]
        return names.union(*map(members, bases))

    return {name: members(kind) for name, kind in classes.items()}


def trainer_members(part: ast.AST) -> set[str]:
    """What a class or function reads of the trainer that it was given."""
    nodes = [node for node in ast.walk(part) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if ast.unparse(node.value) in TRAINER}


def view_of(part: ast.AST) -> str | None:
    """The view that a class or function takes as `trainer`."""
    arguments = [node for node in ast.walk(part) if isinstance(node, ast.arg)]
    kinds = {ast.unparse(a.annotation) for a in arguments if a.arg == "trainer" and a.annotation}
    return next(iter(kinds & views().keys()), None)


def test_parts_of_the_trainer_read_only_their_views():
    """And no member of a view is left that none of them reads."""
    parts = [
        part for module in trees() if room_of(module) == "trainer" for part in trees()[module].body
    ]
    more, read = [], {name: set() for name in views()}
    for part in parts:
        if isinstance(part, ast.ClassDef | ast.FunctionDef) and (view := view_of(part)):
            more += [(part.name, name) for name in trainer_members(part) - views()[view]]
            read[view] |= trainer_members(part)
    taken = [views()[name] for name, members in read.items() if members]
    assert len(taken) > 4 and not more
    assert set().union(*taken) == set().union(*read.values())


def test_every_part_of_the_trainer_takes_a_view():
    """None takes a whole Trainer, whose members the test above does not check."""
    annotations = [
        (module, ast.unparse(node.annotation))
        for module, tree in trees().items()
        if room_of(module) == "trainer"
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) and node.arg == "trainer"
    ]
    assert not [pair for pair in annotations if pair[1] not in views()]


def attributes_set(function: ast.FunctionDef) -> set[str]:
    """The attributes of self that a method sets."""
    stored = (n for n in ast.walk(function) if isinstance(n, ast.Attribute))
    return {n.attr for n in stored if isinstance(n.ctx, ast.Store) and is_own_object(n.value)}


def test_experiments_set_their_attributes_in_constructors():
    """A reader of a constructor sees all that a recipe consists of."""
    late = []
    for module, tree in trees().items():
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for kind in classes if room_of(module) == "experiments" else ():
            methods = {
                f.name: attributes_set(f) for f in kind.body if isinstance(f, ast.FunctionDef)
            }
            first = methods.pop("__init__", set())
            late += [(module, kind.name, sorted(names - first)) for names in methods.values()]
    assert not [each for each in late if each[2]]


def test_experiments_set_no_attributes_of_what_they_are_given():
    """A recipe, an examiner and a subject stay as they were made; who needs other values copies."""
    late = [
        f"{module}:{node.lineno} sets {ast.unparse(node)}"
        for module, tree in trees().items()
        if room_of(module) == "experiments"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value).split(".")[0] in ("recipe", "examiner", "subject")
    ]
    assert not late


# ---- names of variables --------------------------------------------------------------------------

# Participles that do not say what a variable holds (see CONTRIBUTING.md).
VAGUE = {"found", "known", "given", "own", "heard", "said", "held"}
# An argument of a public function.
PUBLIC_ARGUMENTS = {("metrics.informed_attack", "known")}


def local_names(tree: ast.Module) -> set[str]:
    """The arguments and variables of all functions."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    nodes = [node for function in functions for node in ast.walk(function)]
    variables = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return variables | {node.arg for node in nodes if isinstance(node, ast.arg)}


def test_variables_say_what_they_hold():
    names = {(module, name) for module, tree in trees().items() for name in local_names(tree)}
    assert {pair for pair in names if pair[1] in VAGUE} == PUBLIC_ARGUMENTS


# ---- references in texts -------------------------------------------------------------------------

# Rooms that are more often the name of a variable (`trainer.evaluate`).
VARIABLES = {"data", "trainer"}


def test_dotted_names_in_texts_exist():
    """Those that begin with a room, such as `metrics.quality.looping`."""
    rooms = "|".join(sorted(ALLOWED.keys() - VARIABLES))
    dotted = re.compile(rf"`((?:{rooms})(?:\.\w+)+)[`(]")
    names = {name for path in PACKAGE.rglob("*.py") for name in dotted.findall(path.read_text())}
    assert len(names) > 10
    assert not {name for name in names if pydoc.locate(f"hf_unlearn.{name}") is None}


# ---- private names -------------------------------------------------------------------------------


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_definitions(tree: ast.Module) -> set[str]:
    """The private functions, classes, variables and attributes that a module defines."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return {name for name in names if is_private(name)}


def is_own_object(node: ast.expr) -> bool:
    """Whether an expression is self, cls or super()."""
    if isinstance(node, ast.Name):
        return node.id in ("self", "cls")
    return isinstance(node, ast.Call) and ast.unparse(node) == "super()"


def private_imports(module: str) -> list[str]:
    """The private names that a module imports from other modules of this package."""
    nodes = [node for node in ast.walk(trees()[module]) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in nodes if imported_package(module, node) is not None]
    return [name.name for node in ours for name in node.names if is_private(name.name)]


def test_no_module_uses_the_private_names_of_another():
    defined = {module: private_definitions(tree) for module, tree in trees().items()}
    of_all = set().union(*defined.values())
    uses = []
    for module, tree in trees().items():
        of_others = of_all - defined[module] - FOREIGN
        uses += [f"{module} imports {name}" for name in private_imports(module)]
        uses += [
            f"{module}:{node.lineno} uses {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr in of_others
            and not is_own_object(node.value)
        ]
    assert not uses


# ---- repetitions ---------------------------------------------------------------------------------

# Longer conditions that stand in several places deserve a name.
MAX_CHARACTERS, MAX_PLACES = 30, 3


def conditions(tree: ast.Module) -> list[str]:
    """The conditions and conditional expressions of a module. They do not say whose options they
    read: `self.options.model` is `options.model`."""
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.IfExp | ast.BoolOp | ast.Compare)]
    return [re.sub(r"\b(?:\w+\.)+(?=(?:options|args)\.)", "", ast.unparse(node)) for node in nodes]


def test_no_long_condition_stands_in_many_places():
    counts = Counter(text for tree in trees().values() for text in conditions(tree))
    repeated = {text for text, places in counts.items() if places > MAX_PLACES}
    assert not {text for text in repeated if len(text) > MAX_CHARACTERS}


# ---- what an import loads ------------------------------------------------------------------------

# Loaded only by what needs them.
HEAVY = "sklearn scipy jiwer evaluate jinja2 soundfile librosa matplotlib"
# transformers loads some of them by itself.
LIST_NEW_MODULES = f"""
import sys
import peft
from transformers import Seq2SeqTrainer
before = set(sys.modules)
import hf_unlearn, hf_unlearn.data.images
print(*set("{HEAVY}".split()) & set(sys.modules) - before)
"""


def test_importing_the_package_loads_no_library_of_a_part():
    loaded = subprocess.run(
        [sys.executable, "-c", LIST_NEW_MODULES], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("stub", list(PACKAGE.rglob("*.pyi")), ids=lambda stub: stub.parent.name)
def test_a_package_has_the_names_of_its_stub(stub):
    package = importlib.import_module(".".join(stub.parent.relative_to(PACKAGE.parent).parts))
    imports = [
        node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)
    ]
    names = [name.asname for node in imports for name in node.names]
    assert names and sorted(names) == sorted(package.__all__)
    assert not [name for name in names if not hasattr(package, name)]


# ---- the formatter and comments ------------------------------------------------------------------

# What may follow code on its line: a shape, or a mark for a tool.
SHAPE_OR_MARK = re.compile(r"# (?:\(|fmt:|noqa:|type: ignore)")


def files_with(pattern: str) -> list[Path]:
    """The Python files that a regular expression matches."""
    return [
        path
        for folder in ("hf_unlearn", "recipes", "tests", "docs")
        for path in (PACKAGE.parent / folder).rglob("*.py")
        if re.search(pattern, path.read_text())
    ]


def test_comments_stand_on_lines_of_their_own():
    late = []
    for path in files_with(r"\S  # "):
        with path.open("rb") as file:
            late += [
                f"{path.name}: {token.line.strip()}"
                for token in tokenize.tokenize(file.readline)
                if token.type == tokenize.COMMENT
                and token.line[: token.start[1]].strip()
                and not SHAPE_OR_MARK.match(token.string)
            ]
    assert not late


def test_only_the_calls_of_kernels_are_kept_from_the_formatter():
    """Their arguments stand in the order and the groups of the kernel's own."""
    files = files_with(r"# fmt: (?:skip|off)")
    assert files and all(path.name.startswith("triton_") for path in files)


# ---- tests ---------------------------------------------------------------------------------------


def test_no_test_module_imports_another():
    """What several of them need is in tests/support or in a module beside them."""
    imports = re.compile(r"^\s*(?:from|import) .*\btest_\w+", re.M)
    files = (PACKAGE.parent / "tests").rglob("*.py")
    assert not [str(path) for path in files if imports.search(path.read_text())]
