"""The data options that recipes share, whatever their samples are."""

from dataclasses import dataclass, field

from .names import as_names

# The options that hold names.
NAMES = ("forget_speakers", "retain_speakers", "forget_classes", "retain_classes", "forget_ids")


@dataclass
class DataArguments:
    """The data of a recipe: where it is, and how much of it is retained and evaluated."""

    _argument_group_name = "data"

    dataset: str = field(default="", metadata={"help": "Hub id, folder or table."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration on the Hub."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the dataset on the Hub."}
    )
    train_split: str = field(
        default="train", metadata={"help": "Split that the model was trained on."}
    )
    test_split: str | None = field(
        default=None,
        metadata={
            "help": "Split of unseen samples; without it a share of train_split is held out."
        },
    )
    id_column: str = field(
        default="id",
        metadata={
            "help": "Column of unique sample ids; without it the ids are the files' paths, or row "
            "numbers."
        },
    )
    held_out: float = field(
        default=0.1,
        metadata={
            "help": "Share of the samples of each class or speaker to keep out of training where "
            "test_split has none."
        },
    )
    retain_size: float = field(
        default=48,
        metadata={
            "help": "Number of samples in the retain set; below 1, the share of those that can be "
            "retained; -1, all of them."
        },
    )
    retain_rest: int = field(
        default=0,
        metadata={
            "help": "Number of training samples to evaluate that are retained, but not in the "
            "retain set: they show how well unlearning keeps training data that it does not see."
        },
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata={"help": "Maximum number of samples of each split to evaluate; default: all."},
    )

    def __post_init__(self) -> None:
        """Names of speakers, classes and samples are texts, also those that look like numbers."""
        for name in NAMES:
            if hasattr(self, name):
                setattr(self, name, as_names(getattr(self, name)))


@dataclass
class ClassArguments:
    """What a recipe of classified samples may forget besides whole speakers: classes, or
    single samples."""

    label_column: str = field(default="label", metadata={"help": "Column of the class."})
    forget_classes: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Names of the classes to forget; with forget_samples, the classes to draw the "
            "samples from."
        },
    )
    forget_samples: float | None = field(
        default=None,
        metadata={
            "help": "Number of training samples to forget, drawn at random, in place of whole "
            "classes; below 1, the share of them."
        },
    )
    forget_ids: list[str] = field(
        default_factory=list, metadata={"help": "Ids of the training samples to forget."}
    )
    retain_classes: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Where classes or samples are forgotten: the classes to draw the retain set "
            "from; all that are not forgotten if none is named."
        },
    )
