"""Caches a model's transcripts and losses by utterance, in the cache folder of `datasets`."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
from filelock import FileLock

from ...files import written_whole


def by_utterance(key: str, states: list[str], make: Callable[[list[int]], list]) -> list:
    """Returns a value for each utterance. Only the values of new utterances are computed.

    Args:
        key: hash of what all values depend on, such as the model.
        states: hashes of what the value of each utterance depends on, such as its audio.
        make: computes the values of the utterances with these indices. JSON must be able to hold
            them.
    """
    path = Path(datasets.config.HF_DATASETS_CACHE) / "hf_unlearn" / f"{key}.json"
    cached = _read(path)
    # An utterance may occur twice.
    new = {state: index for index, state in enumerate(states) if state not in cached}
    if new:
        made = dict(zip(new, make(list(new.values()))))
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            # Another run may have added other utterances by now.
            cached = {**_read(path), **made}
            with written_whole(path) as partial:
                partial.write_text(json.dumps(cached))
    return [cached[state] for state in states]


def _read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}
