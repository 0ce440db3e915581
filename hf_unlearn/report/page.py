"""A run as one HTML page that needs no network: tables, the frontier, error rates by speaker,
transcripts, audio."""

import base64
import difflib
import html
import math
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import jinja2

from ..privacy.redaction import hides, redact, without_paths
from .settings import settings_of
from .tables import MODELS, checks_by_step, further_tables_rows, results_table, results_table_rows
from .tasks import Task, finite, task_of

WIDTH, HEIGHT, MARGIN = 560, 320, 48  # of a plot, in the units of its viewBox


class Report:
    """A run's report: `str` is its table, a notebook shows it as HTML, `save` writes the page.

    Args:
        results: what results.json holds.
        salt: of the pseudonyms that take the forgotten persons' names (see `redact`); None: names
            are shown.
        audio: utterance id -> a sound file's bytes (WAV or FLAC), played on the page.
    """

    def __init__(
        self, results: dict, salt: str | None = None, audio: dict[str, bytes] | None = None
    ):
        self.task = task_of(results)
        audio = {
            name: f"data:audio/wav;base64,{base64.b64encode(file).decode()}"
            for name, file in (audio or {}).items()
        }
        transcripts = [
            {"split": split, **row}
            for split, rows in (results.get("transcripts") or {}).items()
            for row in rows
        ]
        results = {**results, "transcripts": transcripts}
        if salt is not None and hides(results, self.task.personal):
            results = redact(results, salt)  # ids in `transcripts` are names, too
        self.results = without_paths(results)
        for row, clean in zip(
            transcripts, self.results["transcripts"]
        ):  # sounds are no texts: nothing is replaced there
            clean["sound"] = audio.get(row["id"])

    def __str__(self) -> str:
        return results_table(self.results) if self._tables() else "not evaluated"

    def _tables(self) -> list:
        return (
            results_table_rows(self.results)
            if any(self.results.get(name) for name in MODELS)
            else []
        )

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its style and the notebook's leave each other
        alone."""
        return f'<iframe srcdoc="{html.escape(self.html())}" style="width: 100%; height: 40em; border: 0"></iframe>'

    def html(self) -> str:
        template = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        text = (
            resources.files("hf_unlearn.report").joinpath("page.html").read_text(encoding="utf-8")
        )
        return template.from_string(text).render(
            task=self.task,
            results=self.results,
            settings=settings_of(self.results),
            tables=self._tables() + further_tables_rows(self.results),
            frontier=frontier(self.results, self.task),
            speakers=by_group(self.results, self.task),
            transcripts=[marked(row) for row in self.results["transcripts"]],
            models=[name for name in MODELS if self.results.get(name)],
        )

    def save(self, path: str | Path) -> Path:
        Path(path).write_text(self.html(), encoding="utf-8")
        return Path(path)


def marked(row: dict) -> dict:
    """A transcript with, for each model, its words as ("same" | "wrong" | "left out", words)
    against the reference."""
    return {
        **row,
        "models": {
            name: list(word_differences(row["reference"], text))
            for name, text in row["models"].items()
        },
    }


def word_differences(reference: str, said: str) -> Iterator[tuple[str, str]]:
    """What was said, cut into runs of words that are as in the reference, that are not, and that
    were left out."""
    wanted, words = reference.split(), said.split()
    for kind, start, end, first, last in difflib.SequenceMatcher(
        None, wanted, words, autojunk=False
    ).get_opcodes():
        if kind == "equal":
            yield "same", " ".join(words[first:last])
            continue
        if start < end:
            yield "left out", " ".join(wanted[start:end])
        if first < last:
            yield "wrong", " ".join(words[first:last])


def by_group(results: dict, task: Task) -> list[dict]:
    """Rows (group, split, {model: value}) of the first metric, as per_speaker or per_class of the
    results has it."""
    measured = results.get(f"per_{task.group}") or {}
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for model in MODELS:
        for split, groups in (measured.get(model) or {}).items():
            for group, value in groups.items():
                rows.setdefault((split, group), {})[model] = value
    return [
        {"split": split, "group": group, "values": values}
        for (split, group), values in rows.items()
    ]


def frontier(results: dict, task: Task) -> dict | None:
    """What is kept (test) over what is forgotten (forget), by the checks of the run; None where
    there were none.

    Returns:
        the plot in the units of its viewBox: axes' ticks, the path of the unlearning, one point for
        each model.
    """
    metric = next(iter(task.metrics))
    names = [f"check_forget_{metric}", f"check_test_{metric}"]
    checks = checks_by_step(results.get("history")).items()
    path = [
        (*map(check.get, names), step)
        for step, check in checks
        if all(map(finite, map(check.get, names)))
    ]
    models = {
        name: (results[name]["forget"][metric], results[name]["test"][metric])
        for name in MODELS
        if results.get(name)
        and all(finite(results[name].get(split, {}).get(metric)) for split in ("forget", "test"))
    }
    if not path or not models:
        return None
    points = [*(point[:2] for point in path), *models.values()]
    scales = [_scale([point[axis] for point in points]) for axis in (0, 1)]

    def place(x, y):
        across, up = (
            (value - scale[0]) / (scale[-1] - scale[0]) for value, scale in zip((x, y), scales)
        )
        return round(MARGIN + across * (WIDTH - 2 * MARGIN), 1), round(
            HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN), 1
        )

    return {
        "width": WIDTH, "height": HEIGHT, "margin": MARGIN, "metric": task.metrics[metric],
        "x_ticks": [(place(tick, 0)[0], f"{tick:g}") for tick in scales[0]],
        "y_ticks": [(place(0, tick)[1], f"{tick:g}") for tick in scales[1]],
        "path": [(*place(x, y), step) for x, y, step in path],
        "models": [(*place(x, y), name) for name, (x, y) in models.items()],
    }  # fmt: skip


def _scale(values: list[float]) -> list[float]:
    """Round ticks from 0, or below the least value, to at least the largest one."""
    bottom = min(0, *values)
    top = max(0, bottom + 1e-9, *values)  # all values can be 0
    width = top - bottom
    step = 10 ** math.floor(math.log10(width))
    step = next(step * factor for factor in (0.2, 0.5, 1, 2) if width / (step * factor) <= 6)
    return [step * tick for tick in range(math.floor(bottom / step), math.ceil(top / step) + 1)]
