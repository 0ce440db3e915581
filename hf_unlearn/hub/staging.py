"""Copies what is uploaded from an output folder, redacted, into a folder of its own."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from peft import PeftConfig, PeftModel

from ..files import link_or_copy, one_line, write_json
from ..privacy.paths import without_paths
from ..privacy.redaction import hidden_names, mentions_any, must_hide, redact
from ..report.file_names import CARD, EVALUATION, RESULTS
from ..report.ledger import note_merged
from ..report.results import Results
from ..report.tasks import task_of
from .metadata import on_hub
from .model_card import write_card
from .name_checks import REDACTED, check_name, check_texts, require_base_on_hub
from .neutral_labels import make_labels_neutral

WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")
# Configurations, tokenizers and processors are uploaded unchanged. Pickles, audio, reports and logs
# are not uploaded.
MODEL_FILES = (
    *WEIGHTS,
    "*.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.spm",
    "*.jinja",
    "*.png",
)
# Files that are linked instead of copied.
LARGE = (".safetensors", ".pt", ".pth", ".bin")


def stage(
    folder: str | Path,
    target: str | Path,
    repo_id: str,
    salt: str,
    *,
    token: str | None = None,
    name_forgotten: bool = False,
    merge: bool = False,
) -> list[str]:
    """Puts what is uploaded of a run's output folder into `target`, redacted.

    A card that was edited is uploaded as it is; otherwise it is written from results.json. Labels
    of a classifier that name a forgotten person become neutral ids (see `make_labels_neutral`).

    Args:
        salt: of the pseudonyms (see `redact`).
        name_forgotten: publish who was forgotten.
        merge: merge an adapter into its base model.

    Returns:
        The names that nothing in `target` may mention.

    Raises:
        ValueError: there is no results.json; the base model of an adapter is not on the Hub; a file
            contains an access token; or a name of a forgotten person cannot be replaced, because it
            is part of the repository's name, a configuration or an edited card.
    """
    folder, target = Path(folder), Path(target)
    results = Results.read(folder)
    if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        raise ValueError(
            f"{folder} holds no weights in safetensors: give the output_dir of a finished run"
        )
    # The training arguments say whom to hide, too.
    content = _redacted_files(folder)
    task = task_of(results)
    hide = not name_forgotten and must_hide(content, task.personal)
    if hide:
        # What the forgotten persons said, word for word.
        results.transcripts = None
    content[RESULTS] = results.to_dict()
    hidden = hidden_names(content) if hide else []
    check_name(repo_id, hidden)
    results.merged = _stage_model(folder, target, merge) or results.merged
    noun = "speaker" if task.pipeline == "audio-classification" else "label"
    make_labels_neutral(target, hidden, noun)
    _check_adapter(target, results.card.get("local", ()))
    _put_card(folder, target, results, salt, hidden, name_forgotten)
    content[RESULTS] = results.to_dict()
    _write_files(target, redact(content, salt) if hide else content)
    check_texts(target, hidden, token)
    return hidden


def _stage_model(folder: Path, target: Path, merge: bool) -> bool:
    """Puts the model's files into `target`; returns whether an adapter was merged."""
    _copy_model_files(folder, target)
    if not merge or not (folder / "adapter_config.json").is_file():
        return False
    merge_adapter(folder, target)
    note_merged(target)
    return True


def _write_files(target: Path, content: dict[str, dict]) -> None:
    """Writes the redacted JSON files without local paths."""
    local = (content[RESULTS].get("card") or {}).get("local", ())
    for name, cleaned in without_paths(content, local).items():
        write_json(target / name, cleaned)


def _redacted_files(folder: Path) -> dict[str, dict]:
    """{file name: content} of the JSON files that are redacted before they are uploaded."""
    paths = [folder / name for name in REDACTED if (folder / name).is_file()]
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def _copy_model_files(folder: Path, target: Path) -> None:
    for path in sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern)):
        # Hidden files are not part of a model: a process that was killed may leave one behind.
        hidden = path.name.startswith(".")
        if not hidden and path.name not in (*REDACTED, EVALUATION):
            link(path, target / path.name)


def link(source: Path, target: Path) -> None:
    """Hard-links weights, which are never modified in place; copies other files."""
    if source.suffix in LARGE:
        link_or_copy(source, target)
    else:
        shutil.copyfile(source, target)


def merge_adapter(folder: Path, target: Path) -> None:
    """Replaces the adapter in `target` by the whole model with the adapter merged into it.

    Merging is done in float32. Rounding to the half precision that the base model may be stored in
    would lose most of a small adapter.

    Raises:
        ValueError: the base model is neither a folder nor an id on the Hub, or cannot be loaded.
    """
    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    if not base or not on_hub(base) and not Path(base).is_dir():
        raise ValueError(
            f"the adapter's base model, {base!r}, does not exist, so it cannot be merged: put it "
            "there, or write its folder as base_model_name_or_path into "
            f"{folder / 'adapter_config.json'}"
        )
    try:
        architecture = transformers.AutoConfig.from_pretrained(base).architectures[0]
        whole = getattr(transformers, architecture).from_pretrained(base, dtype=torch.float32)
    except OSError as error:
        raise ValueError(
            f"the adapter's base model, {base!r}, could not be loaded: {one_line(error)}"
        ) from error
    model = PeftModel.from_pretrained(whole, folder)
    for path in target.glob("adapter_*"):
        path.unlink()
    model.merge_and_unload().save_pretrained(target)


def _check_adapter(target: Path, local: Iterable[str]) -> None:
    config = target / "adapter_config.json"
    if config.is_file():
        require_base_on_hub(json.loads(config.read_text())["base_model_name_or_path"], local)


def _put_card(
    folder: Path, target: Path, results: Results, salt: str, hidden: list[str], name_forgotten: bool
) -> None:
    """Puts the edited card of `folder` into `target`, or a new one if none was edited."""
    results.card = {"model_name": folder.absolute().name, **results.card}
    written = write_card(target, results, salt, name_forgotten=name_forgotten)
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else str(written)
    if text == str(written) or results.merged:
        return
    if mentions_any(text, hidden):
        raise ValueError(
            f"{card} seems to name a forgotten person: write it again with `hf-unlearn card`, or "
            "publish the name knowingly with name_forgotten"
        )
    shutil.copyfile(card, target / CARD)
