"""`Report`: a run as one HTML page that needs no network.

It shows tables, the frontier, error rates by speaker or class, transcripts and audio.
"""

import base64
import difflib
import html
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from ..metrics.attack_table import ATTACKS
from ..privacy.paths import without_paths
from ..privacy.redaction import must_hide, redact
from .audit_tables import audit_rows, door_notes
from .audit_words import headline
from .frontier_svg import frontier
from .listed_settings import settings_of
from .phases import phases_table
from .result_tables import Table, further_tables_rows, results_table, results_table_rows
from .results import MODELS, Results
from .tasks import Task, task_of
from .verdict import verdict, with_origin


class Report:
    """The report of a run: `print` shows its tables, a notebook its page, and `save` writes it.

    Args:
        salt: of the pseudonyms that replace the names of forgotten persons (see `redact`). With
            None, names are shown.
        audio: utterance id -> bytes of a sound file (WAV or FLAC), which the page plays.
    """

    def __init__(
        self,
        results: Results,
        salt: str | None = None,
        audio: dict[str, bytes] | None = None,
    ):
        self.task = task_of(results)
        transcripts = [
            {"split": split, **row}
            for split, rows in (results.transcripts or {}).items()
            for row in rows
        ]
        content = {**results.to_dict(), "transcripts": transcripts}
        if salt is not None and must_hide(content, self.task.personal):
            # The ids of the transcripts are names, too.
            content = redact(content, salt)
        content = without_paths(content, content["card"].get("local", ()))
        self.transcripts = content.pop("transcripts")
        self.results = Results.from_dict(content)
        # Audio is added after the redaction, which would search it for names.
        audio = audio or {}
        for row, cleaned in zip(transcripts, self.transcripts):
            cleaned["sound"] = _data_url(audio[row["id"]]) if row["id"] in audio else None

    def __str__(self) -> str:
        return results_table(self.results) if self._tables() else "not evaluated"

    def _tables(self) -> list[Table]:
        return results_table_rows(self.results) if self.results.models() else []

    def _repr_html_(self) -> str:
        """The page in a frame, so that its style and the notebook's do not affect each other."""
        style = "width: 100%; height: 40em; border: 0"
        return f'<iframe srcdoc="{html.escape(self.html())}" style="{style}"></iframe>'

    def html(self) -> str:
        """The page."""
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        stopping = self.results.stopping or {}
        page = resources.files("hf_unlearn.report").joinpath("page.html")
        return environment.from_string(page.read_text(encoding="utf-8")).render(
            task=self.task,
            results=self.results,
            verdict=verdict(self.results.models(), self.task, stopping),
            rule=with_origin(stopping.get("rule"), self.results.retrained),
            attacks=self._attack_meanings(),
            date=(self.results.environment or {}).get("date"),
            command=self.results.command,
            settings=settings_of(self.results),
            audit=audit_of(self.results),
            tables=self._tables() + further_tables_rows(self.results),
            frontier=frontier(self.results, self.task),
            groups=by_group(self.results, self.task),
            phases=phases_table(self.results),
            transcripts=[_marked(row) for row in self.transcripts],
            models=list(self.results.models()),
        )

    def _attack_meanings(self) -> dict[str, str]:
        """Name -> meaning of the membership attacks that were measured."""
        measured = {name for values in (self.results.attacks or {}).values() for name in values}
        return {name: attack.meaning for name, attack in ATTACKS.items() if name in measured}

    def save(self, path: str | Path) -> Path:
        """Writes the page to a file, and returns its path."""
        Path(path).write_text(self.html(), encoding="utf-8")
        return Path(path)


def audit_of(results: Results) -> dict[str, Any] | None:
    """What the page shows of an audit; None where there was none."""
    audit = results.audit
    if not audit:
        return None
    return {"headline": headline(audit), "rows": audit_rows(audit), "notes": door_notes(audit)}


def _data_url(sound: bytes) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(sound).decode()}"


def _marked(row: dict[str, Any]) -> dict[str, Any]:
    """A transcript in which `word_differences` has split each model's text."""
    models = {
        name: list(word_differences(row["reference"], text)) for name, text in row["models"].items()
    }
    return {**row, "models": models}


def word_differences(reference: str, transcript: str) -> Iterator[tuple[str, str]]:
    """Cuts a model's transcript into runs of words, compared with the reference.

    Yields:
        ("same" | "wrong" | "left out", words)
    """
    reference_words, words = reference.split(), transcript.split()
    matcher = difflib.SequenceMatcher(None, reference_words, words, autojunk=False)
    for kind, start, end, first, last in matcher.get_opcodes():
        if kind == "equal":
            yield "same", " ".join(words[first:last])
            continue
        if start < end:
            yield "left out", " ".join(reference_words[start:end])
        if first < last:
            yield "wrong", " ".join(words[first:last])


def by_group(results: Results, task: Task) -> list[dict[str, Any]]:
    """The first metric of each speaker or class: rows of split, group and {model: value}.

    Taken from `per_speaker` or `per_class` of the results.
    """
    measured = {"speaker": results.per_speaker, "class": results.per_class}.get(task.group) or {}
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for model in MODELS:
        for split, groups in (measured.get(model) or {}).items():
            for group, value in groups.items():
                rows.setdefault((split, group), {})[model] = value
    return [
        {"split": split, "group": group, "values": values}
        for (split, group), values in rows.items()
    ]
