"""The ledger of a model: what it was made to forget, request by request. It is copied from one
output folder to the next and to the Hub, and names nobody."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_json
from .file_names import LEDGER
from .result_tables import Table, align
from .tasks import Task
from .weights import weights_digest

Entry = dict[str, Any]

UNVERIFIED = "unverified"
# Digits of an id and of a digest that tables show. Cards have pseudonyms of as many.
SHOWN = 8
# The most ids that a table lists of a request.
LISTED = 5


def read_ledger(file: str | Path) -> list[Entry]:
    """The entries of a ledger, the first request first; [] where there is no such file.

    Raises:
        ValueError: the file cannot be read as a ledger.
    """
    path = Path(file)
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["requests"]
        numbers = [entry["request"] for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as a ledger ({error!r}): fix it, or move it away if this model "
            "has no earlier requests"
        ) from error
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(
            f"the requests in {path} are numbered {numbers}: something was removed or changed; "
            "put back the file that the run wrote"
        )
    return entries


def write_ledger(folder: str | Path, entries: Sequence[Entry]) -> None:
    write_json(Path(folder) / LEDGER, {"requests": list(entries)})


def note_merged(folder: Path) -> None:
    """Notes in a folder's ledger that an adapter was merged into its base, which gives other
    weights than those of the run."""
    entries = read_ledger(folder / LEDGER)
    if entries:
        last = entries[-1]
        entries[-1] = {
            **last,
            "weights_after": weights_digest(folder),
            "merged_from": last["weights_after"],
        }
        write_ledger(folder, entries)


# ---- for readers ---------------------------------------------------------------------------------


def ledger_rows(entries: Sequence[Entry], task: Task) -> Table:
    """One row for each request, with what the last run measured of earlier requests."""
    rows = [["request", "date", "forgotten", "method", "stopped", "weights after", "checked last"]]
    for entry in entries:
        rows.append(
            [
                str(entry["request"]),
                (entry.get("date") or "-")[:10],
                _forgotten(entry),
                (entry.get("settings") or {}).get("method", "-"),
                _stopped(entry.get("stopped")),
                (entry.get("weights_after") or "-")[:SHOWN],
                _checked(entries, entry, task),
            ]
        )
    return rows


def ledger_table(entries: Sequence[Entry], task: Task) -> str:
    """The rows as a table in Markdown."""
    return align(ledger_rows(entries, task), markdown=True)


def broken_links(entries: Sequence[Entry]) -> list[int]:
    """The requests that did not start from the weights at the end of the request before."""
    pairs = zip(entries, entries[1:])
    return [
        late["request"] for early, late in pairs if late["weights_before"] != early["weights_after"]
    ]


def _forgotten(entry: Entry) -> str:
    """What was forgotten, by pseudonyms: "speaker 3f0c2a1b (48 samples)"."""
    ids = [name[:SHOWN] for name in entry["ids"]]
    more = f" and {len(ids) - LISTED} more" if len(ids) > LISTED else ""
    samples = (entry.get("samples") or {}).get("forget")
    count = "" if samples is None else f" ({samples} samples)"
    if entry["column"] == "id":
        return f"{len(ids)} single samples"
    return f"{entry['column']} {', '.join(ids[:LISTED])}{more}{count}"


def _stopped(stopped: Mapping[str, Any] | None) -> str:
    if not stopped:
        return "-"
    back = stopped.get("restored_step")
    restored = "" if back is None else f", back to step {back}"
    return f"step {stopped['step']}: {stopped['reason']}{restored}"


def _checked(entries: Sequence[Entry], entry: Entry, task: Task) -> str:
    """What the last run measured of a request: "WER (%) 61.2, before 63.0"."""
    if entry is entries[-1]:
        return "this request"
    check = (entries[-1].get("earlier") or {}).get(str(entry["request"]), UNVERIFIED)
    if not isinstance(check, Mapping):
        return str(check)
    metric = check["metric"]
    heading = task.metrics.get(metric, metric)
    after, before = (task.text(metric, check[model]) for model in ("after", "before"))
    part = "" if check["found"] == check["of"] else f" ({check['found']} of {check['of']} found)"
    return f"{heading} {after}, before {before}{part}"
