"""Publishing: what of a run is uploaded to the Hub, whom it names, and what is said when that
fails."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from transformers.utils import logging

from ..privacy.redaction import (
    hidden_names,
    hide_tokens,
    hides,
    names_somebody,
    redact,
    salt_of,
    texts_of,
    without_paths,
)
from ..report.results import read_results, write_results
from ..report.tasks import task_of
from .model_card import on_hub, write_card

logger = logging.get_logger(__name__)

RESULTS, ARGUMENTS, CARD = "results.json", "training_args.json", "README.md"
WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")
# Configurations, tokenizers and processors go as they are; pickles, audio, reports and logs stay
# here.
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
REDACTED = (RESULTS, ARGUMENTS, "trainer_state.json", "unlearn_state.json")
LARGE = (".safetensors", ".pt", ".pth", ".bin")
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "*.index.json")
ADVICE = {
    401: "The token is missing or not valid: log in with `hf auth login`, or set HF_TOKEN.",
    403: "The token may not write there: take one with write access, or another name.",
    404: "There is no such repository, or the token may not see it.",
    413: "A file is too large for the Hub: save the model in smaller shards.",
    429: "Too many requests: wait some minutes, then push again.",
}


class HubError(OSError):
    """A push that did not end in a commit."""


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload unlearned model",
    name_forgotten: bool = False,
    merge: bool = False,
) -> CommitInfo:
    """Uploads a run's output folder: weights, processor, configurations, training arguments,
    results, plots and card.

    Nothing is uploaded that names a forgotten person (see `stage`).

    Args:
        folder: output_dir of a run, with its results.json.
        repo_id: user/name on the Hub; made if it is not there.
        message: of the commit.
        name_forgotten: publish who was forgotten.
        token, private, revision: as in `HfApi.create_repo` and `upload_folder`, which retry as they
            always do.
        merge: an adapter is merged into its base model first.

    Returns:
        the commit.

    Raises:
        ValueError: the folder cannot be published as it is; nothing was sent.
        HubError: the Hub refused, or could not be reached.
    """
    read_results(folder)  # what is no run's folder gets no salt
    with tempfile.TemporaryDirectory() as staged:
        names = stage(
            folder,
            staged,
            repo_id,
            salt_of(folder),
            token=token,
            name_forgotten=name_forgotten,
            merge=merge,
        )
        check_told({"commit message": message, "revision": revision}, names)
        with hub_failures(repo_id, folder):
            api = HfApi(token=token)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            return api.upload_folder(
                repo_id=repo_id, folder_path=staged, commit_message=message, revision=revision
            )


@contextlib.contextmanager
def hub_failures(repo_id: str, folder: str | Path) -> Iterator[None]:
    """Makes one clear message of the many ways in which talking to the Hub fails. Raises
    HubError."""
    try:
        yield
    except Exception as error:  # of huggingface_hub, of its HTTP library (which changes), of the threads that upload
        advice = ADVICE.get(
            _status(error),
            "The Hub did not answer as it should, several times over: push again later.",
        )
        if isinstance(error, OfflineModeIsEnabled):
            advice = "Unset HF_HUB_OFFLINE."
        if (
            isinstance(error, FileNotFoundError | PermissionError | HFValidationError)
            and _status(error) is None
        ):
            advice = "It is not the Hub's fault: mend what the message says, then push again."
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise HubError(
            f"could not push to {repo_id}: {hide_tokens(reason)}. {advice} There is no new commit; "
            "the model is in "
            f"{folder} as before."
        ) from error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error, or the one that it comes from, was raised for."""
    while error is not None:
        if (response := getattr(error, "response", None)) is not None:
            return response.status_code
        error = error.__cause__ or error.__context__
    return None


# ---- what is uploaded ---------------------------------------------------------------------------------------------------


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
    """Puts what is to be uploaded of `folder` into `target`, redacted.

    The card is the one of `folder` where somebody has edited it, and else written from
    results.json.

    Returns:
        the names that nothing of it may mention.

    Raises:
        ValueError: no results.json; an adapter of a model that is not on the Hub; a name of a
            forgotten person where it cannot be replaced: in the repository's name, a configuration
            or an edited card; an access token in a file.
    """
    folder, target = Path(folder), Path(target)
    results = read_results(folder)  # they say what was forgotten
    if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        raise ValueError(
            f"{folder} holds no weights in safetensors: give the output_dir of a finished run"
        )
    texts = {
        name: json.loads((folder / name).read_text())
        for name in REDACTED
        if (folder / name).is_file()
    }
    texts[RESULTS] = results
    hide = hides(texts, task_of(results).personal) and not name_forgotten
    if hide:
        results.pop("transcripts", None)  # what the forgotten said, word for word
    names = hidden_names(texts) if hide else []
    check_name(repo_id, names)
    for path in sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern)):
        if path.name not in (*REDACTED, "evaluation.json"):
            link(path, target / path.name)
    if merge and (folder / "adapter_config.json").is_file():
        results["merged"] = True
        merge_adapter(folder, target)
    _check_adapter(target, results.get("card", {}).get("local", ()))
    _put_card(folder, target, results, salt, names, name_forgotten)
    for name, content in without_paths(redact(texts, salt) if hide else texts).items():
        write_results(target / name, content)
    check_texts(target, names, token)
    return names


def check_name(repo_id: str, names: list[str]) -> None:
    """Raises ValueError for what can be no repository's name, or names somebody."""
    validate_repo_id(repo_id)
    if names_somebody(repo_id, names):
        raise ValueError(
            f"the repository's name, {repo_id}, names who is forgotten: give another hub_model_id "
            "or --repo_id (or publish the name "
            "knowingly with name_forgotten)"
        )


def check_told(told: dict[str, str | None], names: list[str]) -> None:
    """Raises ValueError where something that the Hub is told beside the files names who is
    forgotten."""
    if named := next(
        (pair for pair in told.items() if pair[1] and names_somebody(pair[1], names)), None
    ):
        raise ValueError(
            f"the {named[0]}, {named[1]!r}, names who is forgotten: change it, or publish the name "
            "knowingly with name_forgotten"
        )


def check_base(base: str | None, local=()) -> None:
    """Raises ValueError where the base model of an adapter that is to be pushed is not on the
    Hub."""
    if not on_hub(base, local):
        raise ValueError(
            f"the adapter's base model, {base or 'a new model'}, is not on the Hub, so that nobody "
            "could load it: leave "
            "push_to_hub out and push the trained model merged (hf-unlearn push --merge, or "
            "trainer.push_to_hub(merge=True)), "
            "or start from a model of the Hub"
        )


def check_login(repo_id: str, folder: str | Path, token: str | None) -> None:
    """Raises HubError where the Hub does not know the token, or cannot be reached."""
    with hub_failures(repo_id, folder):
        HfApi(token=token).whoami()


def link(source: Path, target: Path) -> None:
    """Puts a file's content at `target`: weights are linked, and never written to; the rest is
    copied."""
    if source.suffix in LARGE:
        with contextlib.suppress(OSError):  # another file system
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def merge_adapter(folder: Path, target: Path) -> None:
    """Replaces the adapter in `target` by the whole model with the adapter of `folder` merged into
    it, in float32: rounded to the half precision that its base may be stored in, it would lose most
    of a small adapter."""
    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    if not base or not on_hub(base) and not Path(base).is_dir():
        raise ValueError(
            f"the adapter's base model, {base!r}, is not here, so that nothing can be merged: put "
            "it there, or name its folder "
            f"as base_model_name_or_path in {folder / 'adapter_config.json'}"
        )
    architecture = transformers.AutoConfig.from_pretrained(base).architectures[0]
    base = getattr(transformers, architecture).from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder)
    for path in target.glob("adapter_*"):
        path.unlink()
    model.merge_and_unload().save_pretrained(target)


def _check_adapter(target: Path, local) -> None:
    config = target / "adapter_config.json"
    if config.is_file():
        check_base(json.loads(config.read_text())["base_model_name_or_path"], local)


def _put_card(
    folder: Path, target: Path, results: dict, salt: str, names: list[str], name_forgotten: bool
) -> None:
    results["card"] = {"model_name": folder.absolute().name, **results.get("card", {})}
    fresh = write_card(target, results, salt, name_forgotten=name_forgotten)
    own = folder / CARD
    text = own.read_text(encoding="utf-8") if own.is_file() else str(fresh)
    if text == str(fresh) or results.get("merged"):
        return
    if names_somebody(text, names):
        raise ValueError(
            f"{own} seems to name who is forgotten: write it anew with `hf-unlearn card`, or "
            "publish the name "
            "knowingly with name_forgotten"
        )
    shutil.copyfile(own, target / CARD)


def check_texts(target: Path, names: list[str], token: str | None) -> None:
    """The last look at what is about to be uploaded; short numbers are no names here, since
    configurations hold many."""
    names = [name for name in names if not name.isdigit() or len(name) > 2]
    token = token or get_token()
    files = [path for path in target.rglob("*") if path.is_file()]
    if named := [path.name for path in files if names_somebody(path.name, names)]:
        raise ValueError(
            f"the file {named[0]!r} names who is forgotten: rename it, or take it out of the folder"
        )
    for path in (path for path in files if path.suffix not in (*LARGE, ".png")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if token and token in text:
            raise ValueError(
                f"{path.name} holds the access token: nothing was uploaded; remove it from the file"
            )
        if any(path.match(pattern) for pattern in VOCABULARIES) or path.suffix not in (
            ".json",
            ".jinja",
            ".md",
            ".yaml",
        ):
            continue
        # Numbers in what was written from the results are measured ones, and pseudonyms have
        # digits.
        generated = path.name in (*REDACTED, CARD) or path.suffix == ".yaml"
        sought = [name for name in names if not name.isdigit()] if generated else names
        if named := next(
            (said for said in _texts_in(path, text) if names_somebody(said, sought)), None
        ):
            raise ValueError(
                f"{path.name} says {named!r}, which names who is forgotten: change it, or publish "
                "the name knowingly "
                "with name_forgotten"
            )
    _check_tensors(target, [name for name in names if not name.isdigit()])


def _texts_in(path: Path, text: str) -> Iterator[str]:
    if path.suffix != ".json":
        yield from text.splitlines()
        return
    try:
        yield from texts_of(json.loads(text))
    except ValueError as error:
        raise ValueError(
            f"{path.name} is no JSON ({error}): mend it, or take it out of the folder"
        ) from error


def _check_tensors(target: Path, names: list[str]) -> None:
    """Names of tensors: a head for each speaker. Numbers there count layers."""
    for path in target.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            told = [*file.keys(), *texts_of(file.metadata() or {})]
        if named := next((name for name in told if names_somebody(name, names)), None):
            raise ValueError(
                f"{path.name} has {named!r}, which names who is forgotten: rename "
                "that part of the model"
            )
