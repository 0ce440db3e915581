"""The earlier requests of the model that a run starts from, by its ledger or its results.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transformers.utils import logging

from ...data.earlier import EarlierRequest, known_names
from ...data.splits import Splits
from ...files import model_file, run_folders
from ...privacy.carried_salt import LONG, salt_name, salts_in
from ...privacy.redaction import SALT, pseudonym
from ...report.file_names import LEDGER
from ...report.ledger import Entry, read_ledger
from ...report.weights import weights_digest
from .from_results import forgotten_names, results_of

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class RequestHistory:
    """All earlier requests of a model.

    Attributes:
        entries: of its ledger, the first request first.
        salts: {name of the salt: salt} of those that are known here.
        names: names of what was forgotten, by the column of the data, as far as they are known.
    """

    entries: Sequence[Entry] = field(default_factory=list)
    salts: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def salt(self) -> str | None:
        """The salt of the last request, to be carried along; None if it is not known here."""
        return self.salts.get(self.entries[-1]["salt"]) if self.entries else None

    def requests(self) -> list[EarlierRequest]:
        """The requests whose names can be recognised in data, by the ledger and by `names`."""
        by_name = [EarlierRequest.of_names(column, names) for column, names in self.names.items()]
        return [*self.requests_of_ledger(), *by_name]

    def requests_of_ledger(self) -> list[EarlierRequest]:
        """Those of the ledger whose salt is known."""
        return [
            EarlierRequest(entry["request"], entry["column"], SaltedIds(entry["ids"], salt))
            for entry in self.entries
            if (salt := self.salts.get(entry["salt"])) is not None
        ]

    def names_with(self, splits: Splits) -> dict[str, list[str]]:
        """`names`, and those that the splits' data has of the requests."""
        names_by_column = {column: set(names) for column, names in self.names.items()}
        for request in self.requests_of_ledger():
            rows = splits.earlier.get(request.split)
            if rows is not None:
                data_names = known_names([request], request.column, set(rows[request.column][:]))
                names_by_column.setdefault(request.column, set()).update(data_names)
        return {column: sorted(names) for column, names in names_by_column.items()}


class SaltedIds:
    """Recognises names by their salted ids."""

    def __init__(self, ids: Sequence[str], salt: str):
        self._ids, self._salt = set(ids), salt

    def __call__(self, name: str) -> bool:
        return pseudonym(name, self._salt, LONG) in self._ids


def find_earlier(model: str, output_dir: str) -> RequestHistory:
    """The earlier requests of a model.

    The salt that recognises their names is taken from the model's folder or from `output_dir`. For
    a model without a ledger, which an earlier version has made, the names in its results.json stand
    for one request.

    Args:
        model: folder, Hub id, or "train" for a model that is yet to be trained.

    Raises:
        ValueError: the model's ledger cannot be read.
    """
    if model == "train":
        return RequestHistory()
    salts = salts_in([*run_folders(model), output_dir])
    entries = read_ledger(file) if (file := model_file(model, LEDGER)) else []
    if unknown := [str(entry["request"]) for entry in entries if entry["salt"] not in salts]:
        logger.warning_once(
            f"The salt of request {', '.join(unknown)} is neither in {model} nor in {output_dir}, "
            "so the data forgotten then cannot be recognised: it may be in the retain set, and is "
            f"not measured again. Put the file {SALT} of that run into {output_dir}."
        )
    names = forgotten_names(model, warn=not entries)
    if not entries and names and salts:
        entries = _from_results(model, names, next(iter(salts.values())))
    return RequestHistory(entries, salts, names)


def _from_results(model: str, names: Mapping[str, Sequence[str]], salt: str) -> list[Entry]:
    """Entries made from the results.json of an earlier version."""
    results = results_of(model)
    digest = weights_digest(model)
    return [
        {
            "request": number,
            "date": (results.get("environment") or {}).get("date"),
            "column": column,
            "ids": sorted(pseudonym(name, salt, LONG) for name in column_names),
            "salt": salt_name(salt),
            "weights_before": digest,
            "weights_after": digest,
            "note": "made from results.json, since that run wrote no ledger",
        }
        for number, (column, column_names) in enumerate(sorted(names.items()), start=1)
    ]
