"""Writes the API reference from the docstrings: python docs/api.py docs/api.md"""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hf_unlearn
from hf_unlearn import (
    METHODS,
    Method,
    UnlearnConfig,
    UnlearnTrainer,
    data,
    evaluation,
    metrics,
    per_sample,
)
from hf_unlearn.data import speech
from hf_unlearn.experiments import audit
from hf_unlearn.hub import upload as hub
from hf_unlearn.methods import Preparation, Step

INTRODUCTION = f"""# API reference
Of hf_unlearn {hf_unlearn.__version__}. `make docs` writes this page from the docstrings, and a test
compares the two. k is the number of retain samples in a step, d the number of trainable parameters,
T the length of a sequence; shapes are given in parentheses, (k, d).
"""
# The methods that UnlearnTrainer adds to Seq2SeqTrainer or changes for users.
TRAINER = ("train", "create_model_card", "push_to_hub", "report")


def page() -> str:
    """The whole API reference in Markdown."""
    parts = [INTRODUCTION, "## Trainer\n", *described(UnlearnTrainer, TRAINER)]
    parts += ["## Configuration\n", *described(UnlearnConfig), fields_table(UnlearnConfig)]
    parts += [
        "## Methods\n",
        "By the names that `method=` takes. `method_kwargs` may hold their keywords, except\n"
        "`alpha` and `granularity`, which are fields of `UnlearnConfig`.\n",
    ]
    parts += [text for name, made_by in METHODS.items() for text in described(made_by, title=name)]
    parts += ["## A method of your own\n"]
    parts += [
        text for kind in (Method, Step, Preparation) for text in described(kind, public(kind))
    ]
    parts += ["## Speech data\n", f"{rendered(speech.__doc__)}\n"]
    for thing in (
        data.load_speech,
        data.prepare,
        data.SpeechCollator,
        data.longest_audio,
        data.shortest_audio,
        data.longest_label,
        data.audio_extractor,
        data.decode_audio,
    ):
        parts += described(thing)
    parts += ["## Evaluation\n"]
    for function in (
        evaluation.asr_metrics,
        evaluation.classification_metrics,
        evaluation.f1_metrics,
        evaluation.evaluate_splits,
    ):
        parts += described(function)
    parts += ["## Metrics\n", f"{rendered(metrics.__doc__)}\n"]
    parts += [
        text
        for name in metrics.__all__
        if callable(kind := getattr(metrics, name))
        for text in described(kind)
    ]
    parts += ["## Audit\n", "In `hf_unlearn.experiments.audit`.\n", *described(audit.audit)]
    parts += [*described(audit.AuditSettings), fields_table(audit.AuditSettings)]
    for kind in (
        audit.gap_to_retrained,
        audit.points_forgotten,
        audit.Finding,
        audit.Door,
        audit.Subject,
    ):
        parts += described(kind)
    parts += ["## Publishing\n", *described(hub.push_folder), *described(hub.HubError)]
    parts += ["## Per-sample gradients\n", f"{rendered(per_sample.__doc__)}\n"]
    for kind in (getattr(per_sample, name) for name in per_sample.__all__):
        parts += described(kind, public(kind))
    return "\n".join(parts)


def public(kind: type) -> list[str]:
    """The names of the public methods with a docstring that a class itself defines."""
    described = [
        name for name, value in vars(kind).items() if inspect.isfunction(value) and value.__doc__
    ]
    return [name for name in described if not name.startswith("_")]


def described(
    thing: type | Callable, members: Iterable[str] = (), title: str | None = None
) -> Iterator[str]:
    """Heading, signature and docstring of a class or function, and of some of its methods.

    Args:
        members: names of the methods.
        title: heading, by default the name.
    """
    yield f"### {title or thing.__name__}\n"
    if call := signature(thing):
        yield f"```py\n{call}\n```\n"
    yield f"{rendered(thing.__doc__)}\n"
    for name in members:
        method = inspect.getattr_static(thing, name)
        yield f"#### {thing.__name__}.{name}\n"
        yield f"```py\n{signature(method)}\n```\n"
        yield f"{rendered(method.__doc__)}\n"


def signature(thing: type | Callable) -> str:
    """The signature of a class or function, as written in its source.

    "" for dataclasses, and for classes without a constructor of ours.
    """
    node = source_of(thing)
    name, returns = thing.__name__, None
    if isinstance(node, ast.ClassDef):
        owner = next(kind for kind in thing.__mro__ if "__init__" in vars(kind))
        ours = getattr(owner.__init__, "__module__", "").startswith("hf_unlearn")
        if dataclasses.is_dataclass(owner) or not ours:
            return ""
        node = source_of(owner.__init__)
    else:
        returns = node.returns
    result = f" -> {ast.unparse(returns)}" if returns is not None else ""
    parts = parameters(node.args)
    line = f"{name}({', '.join(parts)}){result}"
    return line if len(line) < 100 else f"{name}(\n    " + ",\n    ".join(parts) + f",\n){result}"


def source_of(thing: type | Callable) -> ast.ClassDef | ast.FunctionDef:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    return node


def parameters(arguments: ast.arguments) -> list[str]:
    """The parameters of a function without self, each as in its source."""
    if arguments.args and arguments.args[0].arg == "self":
        del arguments.args[0]
    given = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(given) - len(arguments.defaults)) + arguments.defaults
    parts = [argument(*pair) for pair in zip(given, defaults)]
    if arguments.vararg or arguments.kwonlyargs:
        parts.append(f"*{arguments.vararg.arg if arguments.vararg else ''}")
    parts += [argument(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults)]
    return [*parts, f"**{arguments.kwarg.arg}"] if arguments.kwarg else parts


def argument(given: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {ast.unparse(given.annotation)}" if given.annotation else ""
    if default is None:
        return given.arg + annotation
    equals = " = " if annotation else "="
    return given.arg + annotation + equals + ast.unparse(default)


def rendered(docstring: str) -> str:
    """A docstring in Markdown. Sections such as `Args:` become lists, and other indented lines stay
    code."""
    lines, out, section = inspect.cleandoc(docstring).splitlines(), [], False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if re.fullmatch(r"(Args|Attributes|Raises|Returns):", line):
            out += [f"**{line[:-1]}**", ""]
            section = True
        elif line and not indent:
            section = False
            out.append(escaped(re.sub("::$", ":", line)))
        elif section and indent == 4:
            name, colon, text = line.strip().partition(": ")
            listed = colon and re.fullmatch(r"[\w.\"]+(, [\w.\"]+)*(, \.\.\.)?", name)
            out.append(
                f"- `{name.replace(', ', '`, `')}`: {escaped(text)}"
                if listed
                else escaped(line.strip())
            )
        elif section:
            out.append(f"  {escaped(line.strip())}" if line else "")
        else:
            out.append(line)
    return "\n".join(out).strip()


def escaped(text: str) -> str:
    """Escapes < and * outside of `code`."""
    parts = re.split(r"(`+[^`]*`+)", text)
    return "".join(
        part if part.startswith("`") else part.replace("<", "&lt;").replace("*", r"\*")
        for part in parts
    )


def fields_table(config: type) -> str:
    """A table of the fields that a dataclass itself defines, with their help texts."""
    types, own = typing.get_type_hints(config), config.__dict__["__annotations__"]
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(config):
        if field.name in own:
            default = (
                field.default
                if field.default_factory is dataclasses.MISSING
                else field.default_factory()
            )
            kind = types[field.name]
            cells = (
                f"`{field.name}`",
                type_name(kind),
                f"`{default!r}`",
                escaped(field.metadata["help"]),
            )
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
