"""Writes the API reference from the docstrings: python docs/api.py docs/api.md"""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

import hf_unlearn
from hf_unlearn import (
    METHODS,
    Method,
    UnlearnConfig,
    UnlearnTrainer,
    evaluation,
    metrics,
    per_sample,
)
from hf_unlearn.hub import upload as hub
from hf_unlearn.methods import Preparation, Step

INTRODUCTION = f"""# API reference
Of hf_unlearn {hf_unlearn.__version__}. `make docs` writes this page from the docstrings, and a test
compares the two. k is the number of retain samples in a step, d the number of trainable parameters,
T the length of a sequence; shapes are given in parentheses, (k, d).
"""
# what it has beside Seq2SeqTrainer's for users
TRAINER = ("train", "create_model_card", "push_to_hub", "report")


def page() -> str:
    parts = [INTRODUCTION, "## Trainer\n", *described(UnlearnTrainer, TRAINER)]
    parts += ["## Configuration\n", *described(UnlearnConfig), fields_table(UnlearnConfig)]
    parts += [
        "## Methods\n",
        "By the name that `method=` takes; the keywords are what `method_kwargs` may change.\n",
    ]
    parts += [text for name, made_by in METHODS.items() for text in described(made_by, title=name)]
    parts += ["## A method of your own\n"]
    parts += [
        text for kind in (Method, Step, Preparation) for text in described(kind, public(kind))
    ]
    parts += ["## Evaluation\n"]
    for function in (
        evaluation.asr_metrics,
        evaluation.classification_metrics,
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
    parts += ["## Publishing\n", *described(hub.push_folder), *described(hub.HubError)]
    parts += ["## Per-sample gradients\n", f"{rendered(per_sample.__doc__)}\n"]
    for kind in (getattr(per_sample, name) for name in per_sample.__all__):
        parts += described(kind, public(kind))
    return "\n".join(parts)


def public(kind: type) -> list[str]:
    """The methods that a class itself defines for others, and describes."""
    described = [
        name for name, value in vars(kind).items() if inspect.isfunction(value) and value.__doc__
    ]
    return [name for name in described if not name.startswith("_")]


def described(thing, members=(), title: str | None = None) -> Iterator[str]:
    """The heading, signature and text of a class or function, and of the members named."""
    yield f"### {title or thing.__name__}\n"
    if call := signature(thing):
        yield f"```py\n{call}\n```\n"
    yield f"{rendered(thing.__doc__)}\n"
    for name in members:
        method = inspect.getattr_static(thing, name)
        yield f"#### {thing.__name__}.{name}\n"
        yield f"```py\n{signature(method)}\n```\n"
        yield f"{rendered(method.__doc__)}\n"


def signature(thing) -> str:
    """How a class or function is called, as its source has it; "" for a class that takes nothing of
    its own."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    name, returns = node.name, None
    if isinstance(node, ast.ClassDef):
        made_by = next(kind for kind in thing.__mro__ if "__init__" in vars(kind))
        init = made_by.__init__
        if dataclasses.is_dataclass(made_by) or not getattr(init, "__module__", "").startswith(
            "hf_unlearn"
        ):
            return ""
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(init))).body
    else:
        returns = node.returns
    arguments = node.args
    if arguments.args and arguments.args[0].arg == "self":
        del arguments.args[0]
    given = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(given) - len(arguments.defaults)) + arguments.defaults
    parts = [argument(*pair) for pair in zip(given, defaults)]
    if arguments.vararg or arguments.kwonlyargs:
        parts.append(f"*{arguments.vararg.arg if arguments.vararg else ''}")
    parts += [argument(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults)]
    parts += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    result = f" -> {ast.unparse(returns)}" if returns is not None else ""
    line = f"{name}({', '.join(parts)}){result}"
    return line if len(line) < 100 else f"{name}(\n    " + ",\n    ".join(parts) + f",\n){result}"


def argument(given: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {ast.unparse(given.annotation)}" if given.annotation else ""
    equals = " = " if annotation else "="
    return (
        given.arg + annotation + (f"{equals}{ast.unparse(default)}" if default is not None else "")
    )


def rendered(docstring: str) -> str:
    """Markdown of a docstring: `Args:` and its like become lists, what is indented stays as it
    is."""
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
    """Text whose < and | mean themselves outside of `code`."""
    parts = re.split(r"(`+[^`]*`+)", text)
    return "".join(
        part if part.startswith("`") else part.replace("<", "&lt;").replace("*", r"\*")
        for part in parts
    )


def fields_table(config: type) -> str:
    """The fields that a dataclass itself has, or has given another default, with their help."""
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


def type_name(kind) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
