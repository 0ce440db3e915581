"""Caches a model's transcripts and losses by utterance, in the cache folder of `datasets`."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
from filelock import FileLock
from transformers.utils import logging

from ...files import one_line, read_json, written_whole

logger = logging.get_logger(__name__)


def by_utterance(key: str, states: list[str], make: Callable[[list[int]], list]) -> list:
    """Returns a value for each utterance. Only the values of new utterances are computed.

    Only the owner can read the files, because they hold transcripts of forgotten speakers.

    Args:
        key: hash of what all values depend on, such as the model.
        states: hashes of what the value of each utterance depends on, such as its audio.
        make: computes the values of the utterances with these indices. JSON must be able to hold
            them.
    """
    path = Path(datasets.config.HF_DATASETS_CACHE) / "hf_unlearn" / f"{key}.json"
    cached = read_json(path) or {}
    # An utterance may occur twice.
    new = {state: index for index, state in enumerate(states) if state not in cached}
    if new:
        made = dict(zip(new, make(list(new.values()))))
        _add(path, made)
        cached |= made
    return [cached[state] for state in states]


def _add(path: Path, values: dict) -> None:
    """Adds values to a file. Where that fails, later runs compute them again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            # Another run may have added other utterances by now.
            content = json.dumps({**(read_json(path) or {}), **values})
            with written_whole(path, private=True) as partial:
                partial.write_text(content, encoding="utf-8")
    except OSError as error:
        logger.warning(f"Could not cache transcripts or losses in {path}: {one_line(error)}")
