"""What a user says of a model for its card: names, ids of data sets, tags, language and license."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ..privacy.redaction import hidden_names, mentions_any, redact
from ..report.results import Results
from .metadata import inherited_metadata, is_path, listed, name_for_readers, on_hub

# These may name somebody. Language, license and tasks are codes, in which a short name would be
# found by chance.
NAMED_LISTS = ("datasets", "dataset_names", "dataset_args", "local", "tags")
MAY_NAME = ("model_name", "base_model", *NAMED_LISTS, "plot", "inherited")
LISTS = (*NAMED_LISTS, "tasks")


@dataclass
class CardFields:
    """The fields of a card that do not follow from the results.

    results.json keeps them under `card`, so that a card can be written again. A single text becomes
    a list of one.

    Attributes:
        model_name: the card's title.
        base_model, datasets: ids on the Hub. Local folders are left out of the metadata, because
            the Hub refuses them.
        fine_tuned: whether the base model was fine-tuned on the forgotten data first.
        dataset_names, dataset_args: names of the datasets for readers, and their configurations.
        local: those of these names that were folders where the model was made (see `local_among`).
        language: one or several, as codes ("en") or names ("English"). Unknown ones are left out
            with a warning.
        license: as the Hub writes it: "apache-2.0".
        tags: further tags; paths are left out.
        tasks: what the model does ("summarization"), if its class does not tell.
        plot: path of the PNG, relative to the card.
        inherited: the metadata of the base model's card.
    """

    model_name: str = "unlearned-model"
    base_model: str | None = None
    fine_tuned: bool = False
    datasets: Any = ()
    dataset_names: Any = ()
    dataset_args: Any = ()
    local: Any = ()
    language: Any = None
    license: str | None = None
    tags: Any = ()
    tasks: Any = ()
    plot: str | None = None
    inherited: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in LISTS:
            setattr(self, name, listed(getattr(self, name)))
        self.tags = [tag for tag in self.tags if not is_path(tag, self.local)]

    @property
    def base_on_hub(self) -> str | None:
        """The base model's id on the Hub; None if it has none."""
        return self.base_model if on_hub(self.base_model, self.local) else None

    @property
    def datasets_on_hub(self) -> list[str]:
        return [name for name in self.datasets if on_hub(name, self.local)]

    def with_inherited(self) -> "CardFields":
        """These fields, with the metadata of the base model's card."""
        return replace(self, inherited=inherited_metadata(self.base_model, self.local))

    def for_readers(self) -> "CardFields":
        """These fields, with paths shortened to their last parts."""
        return replace(
            self,
            model_name=name_for_readers(self.model_name, self.local),
            base_model=name_for_readers(self.base_model, self.local),
            dataset_names=[name_for_readers(name, self.local) for name in self.dataset_names],
        )


def hide_names(results: Results, about: CardFields, salt: str) -> tuple[Results, CardFields]:
    """The same with pseudonyms in place of the forgotten persons.

    Datasets whose ids name one are left out, because an id with a pseudonym in it would not exist.
    """
    content = results.to_dict()
    card_texts = {name: getattr(about, name) for name in MAY_NAME}
    card_texts["datasets"] = _naming_nobody(about.datasets, hidden_names(content))
    clean = redact({**content, "about": card_texts}, salt)
    card_texts = clean.pop("about")
    return Results.from_dict(clean), replace(about, **card_texts)


def _naming_nobody(datasets: list[str], hidden: Iterable[str]) -> list[str]:
    hidden = list(hidden)
    return [name for name in datasets if not mentions_any(name, hidden)]
