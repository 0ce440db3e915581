"""What anyone can check of a published model without its data: whether its weights are those of its
ledger, and which of them differ from the original's."""

import re
from pathlib import Path

from ...files import model_folder
from ...report.file_names import LEDGER
from ...report.ledger import Entry, broken_links, read_ledger
from ...report.weights import changed_weights, is_adapter, weights_digest

# The tensors that are listed, those that changed most.
LISTED = 5


def check_published(folder: Path, original: str | None = None) -> bool:
    """Compares a ledger with the weights beside it, prints the result, and returns whether they
    agree. It repeats nothing.

    Args:
        folder: a pushed folder, or the output_dir of a run.
        original: folder or Hub id (downloaded before) of the model that the first request started
            from.

    Raises:
        ValueError: there is no ledger, or the original has no weights here.
    """
    entries = read_ledger(folder / LEDGER)
    if not entries:
        raise ValueError(
            f"there is no {folder / LEDGER} to compare with: give a folder that has one"
        )
    wrong = [*_wrong_end(folder, entries), *_broken(entries)]
    if original is not None:
        wrong += _wrong_start(original, entries) or _untrained_changes(folder, original, entries)
    if wrong:
        print(*wrong, f"INCONSISTENT: {folder} and its ledger do not agree.", sep="\n")
        return False
    started = "" if original is None else f", starting from those of {original}"
    print(
        f"CONSISTENT: the weights are those that request {entries[-1]['request']} left{started}. "
        "This does not show that they follow from any data, nor what was forgotten."
    )
    return True


def _wrong_end(folder: Path, entries: list[Entry]) -> list[str]:
    last = entries[-1]
    if weights_digest(folder) == last["weights_after"]:
        return []
    return [f"The weights in {folder} are not those that request {last['request']} left."]


def _broken(entries: list[Entry]) -> list[str]:
    return [
        f"Request {number} did not start from the weights that request {number - 1} left."
        for number in broken_links(entries)
    ]


def _wrong_start(original: str, entries: list[Entry]) -> list[str]:
    digest = weights_digest(original)
    if digest is None:
        raise ValueError(f"{original} has no weights here: give a folder, or download the model")
    if digest == entries[0]["weights_before"]:
        return []
    return [f"Request 1 did not start from the weights of {original}."]


def _untrained_changes(folder: Path, original: str, entries: list[Entry]) -> list[str]:
    """Prints which weights differ, and returns what is wrong with them: some that no request has
    trained."""
    before = model_folder(original)
    if is_adapter(before) or is_adapter(folder):
        print("An adapter's weights are not compared with those of the original one by one.")
        return []
    changed, total = changed_weights(before, folder)
    print(f"{len(changed)} of {total} tensors differ from the original's. Those that differ most:")
    for name in sorted(changed, key=lambda name: -changed[name])[:LISTED]:
        print(f"  {name}: by {100 * changed[name]:.2g} % of its length")
    patterns = [(entry.get("settings") or {}).get("trainable") or "" for entry in entries]
    other = [name for name in changed if not any(re.search(p, name) for p in patterns)]
    if not other:
        return []
    return [
        f"Weights have changed that no request has trained (trainable is {' or '.join(patterns)}): "
        f"{', '.join(other[:LISTED])}{f' and {len(other) - LISTED} more' * (len(other) > LISTED)}."
    ]
