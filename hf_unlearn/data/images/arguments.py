"""The data options of an image recipe."""

from dataclasses import dataclass, field

from ..names import as_names


@dataclass
class ImageArguments:
    """The data of an image recipe: where it is, what is forgotten, how much is retained."""

    _argument_group_name = "data"

    dataset: str = field(
        default="uoft-cs/cifar10",
        metadata={
            "help": "Hub id; folder of images, <split>/<class>/<image> or with metadata.csv; "
            "folder or table with an image and a label column (parquet, arrow, json, csv with "
            "paths)"
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration on the Hub"})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the dataset on the Hub"}
    )
    train_split: str = field(
        default="train", metadata={"help": "Split that the model was trained on"}
    )
    test_split: str | None = field(
        default=None,
        metadata={"help": "Split of unseen images; without it a share of train_split is held out"},
    )
    image_column: str = field(
        default="image",
        metadata={"help": "Column of the image or of its path (CIFAR on the Hub: img)"},
    )
    label_column: str = field(
        default="label", metadata={"help": "Column of the class (CIFAR-100: fine_label)"}
    )
    id_column: str = field(
        default="id",
        metadata={
            "help": "Column of unique image ids; without it paths or row numbers are the ids"
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Store only the images asked for of a Hub dataset, and stop reading once all "
            "have arrived (which needs max_images_per_class)"
        },
    )
    forget_classes: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Names of the classes to forget; with forget_samples, the classes to draw the "
            "samples from"
        },
    )
    forget_samples: float | None = field(
        default=None,
        metadata={
            "help": "Number of training images to forget, drawn at random, in place of whole "
            "classes; below 1, the share of them"
        },
    )
    forget_ids: list[str] = field(
        default_factory=list, metadata={"help": "Ids of the training images to forget"}
    )
    held_out: float = field(
        default=0.1,
        metadata={"help": "Share of each class to keep out of training if there is no test_split"},
    )
    retain_size: float = field(
        default=256,
        metadata={
            "help": "Number of images in the retain set; below 1, the share of those that can be "
            "retained; -1, all of them"
        },
    )
    retain_rest: int = field(
        default=0,
        metadata={
            "help": "Number of training images to evaluate that are retained, but not in the "
            "retain set: they show how well unlearning keeps training data that it does not see"
        },
    )
    retain_classes: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Classes to draw the retain set from; all that are not forgotten if none is "
            "named"
        },
    )
    retain_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Proxy: dataset to draw the retain set from in place of the training data "
            "(for CIFAR-10, CINIC-10)"
        },
    )
    retain_config: str | None = field(
        default=None, metadata={"help": "Configuration of retain_dataset on the Hub"}
    )
    retain_split: str = field(default="train", metadata={"help": "Split of retain_dataset"})
    retain_image_column: str | None = field(
        default=None,
        metadata={"help": "Column of the image in retain_dataset; default: image_column"},
    )
    retain_label_column: str | None = field(
        default=None,
        metadata={"help": "Column of the class in retain_dataset; default: label_column"},
    )
    max_images_per_class: int | None = field(
        default=None, metadata={"help": "Use at most this many images of each class"}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on at most this many images of each split"}
    )
    skip_bad_images: bool = field(
        default=False, metadata={"help": "Leave out broken images, with one warning"}
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Number of processes that look for broken images"}
    )

    def __post_init__(self):
        self.forget_classes = as_names(self.forget_classes)
        self.forget_ids = as_names(self.forget_ids)
        self.retain_classes = as_names(self.retain_classes)
