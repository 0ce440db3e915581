"""Uploads a run's output folder to the Hub, and explains what went wrong when that fails."""

import contextlib
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled

from ..files import first_line
from ..privacy.redaction import hide_tokens, salt_of
from ..report.results import Results
from .name_checks import check_upload_texts
from .staging import stage

# HTTP status -> what to do about it.
ADVICE = {
    401: "The token is missing or not valid: log in with `hf auth login`, or set HF_TOKEN.",
    403: "The token may not write there: use one with write access, or another name.",
    404: "There is no such repository, or the token may not see it.",
    413: "A file is too large for the Hub: save the model in smaller shards.",
    429: "Too many requests: wait a few minutes, then push again.",
}
FAILED = "The Hub failed repeatedly: push again later."
REFUSED = "The Hub refused this request: fix what the message says, then push again."
NOT_SENT = "This is not the Hub's fault: fix what the message says, then push again."
UNKNOWN = "If the reason given is no fault of your files, push again later."

# Libraries that raise errors of kinds of their own, or from their own code.
HUB_LIBRARIES = ("huggingface_hub", "hf_xet")


class HubError(OSError):
    """A push failed, so there is no new commit."""


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
    """Uploads a run: weights, processor, configurations, arguments, results, plots and card.

    Nothing that is uploaded names a forgotten person (see `stage`).

    Args:
        folder: the output_dir of a run, with its results.json.
        repo_id: user/name on the Hub; created if it does not exist.
        message: the commit message.
        name_forgotten: publish who was forgotten.
        token, private, revision: see `HfApi.create_repo` and `HfApi.upload_folder`, which retry
            by themselves.
        merge: merge an adapter into its base model first.

    Returns:
        The commit.

    Raises:
        ValueError: the folder cannot be published as it is; nothing was sent.
        HubError: the Hub refused, or could not be reached.
    """
    # Checked first, so that a folder that is not a run's gets no salt.
    Results.read(folder)
    with tempfile.TemporaryDirectory() as staged:
        hidden = stage(
            folder,
            staged,
            repo_id,
            salt_of(folder),
            token=token,
            name_forgotten=name_forgotten,
            merge=merge,
        )
        check_upload_texts({"commit message": message, "revision": revision}, hidden)
        with hub_failures(repo_id, folder):
            api = HfApi(token=token)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            return api.upload_folder(
                repo_id=repo_id, folder_path=staged, commit_message=message, revision=revision
            )


def check_login(repo_id: str, folder: str | Path, token: str | None) -> None:
    """Raises HubError if the Hub does not accept the token, or cannot be reached."""
    with hub_failures(repo_id, folder):
        HfApi(token=token).whoami()


@contextlib.contextmanager
def hub_failures(repo_id: str, folder: str | Path) -> Iterator[None]:
    """Turns an error of the Hub, of the connection or of a file into one HubError that says what to
    do. An error of another kind, such as a TypeError, is nobody's fault but ours, and stays."""
    try:
        yield
    except Exception as error:
        if not _is_expected(error):
            raise
        reason = first_line(error).rstrip(".")
        raise HubError(
            f"could not push to {repo_id}: {hide_tokens(reason)}. {_advice(error)} There is no new "
            f"commit; the model in {folder} is unchanged."
        ) from error


def _is_expected(error: Exception) -> bool:
    """Whether an error is one of files, of the connection, or of the Hub's libraries."""
    if isinstance(error, OSError | HTTPError):
        return True
    if type(error).__module__.partition(".")[0] in HUB_LIBRARIES:
        return True
    # The threads that upload raise RuntimeError, the answers of the Hub ValueError.
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    library = Path(huggingface_hub.__file__).parent
    return isinstance(error, RuntimeError | ValueError) and raised_in.is_relative_to(library)


def _advice(error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "Unset HF_HUB_OFFLINE."
    status = _status(error)
    if status is None:
        local = isinstance(error, FileNotFoundError | PermissionError | HFValidationError)
        return NOT_SENT if local else UNKNOWN
    return ADVICE.get(status, FAILED if status >= 500 else REFUSED)


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that caused an error, if one did."""
    while error is not None:
        if (response := getattr(error, "response", None)) is not None:
            return response.status_code
        error = error.__cause__ or error.__context__
    return None
