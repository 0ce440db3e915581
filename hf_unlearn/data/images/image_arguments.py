"""The data options of an image recipe."""

from dataclasses import dataclass, field

from ..data_arguments import ClassArguments, DataArguments


@dataclass
class ImageArguments(ClassArguments, DataArguments):
    """The data of an image recipe: where it is, what is forgotten, how much is retained."""

    dataset: str = field(
        default="uoft-cs/cifar10",
        metadata={
            "help": "Hub id; folder of images, <split>/<class>/<image> or with metadata.csv; "
            "folder or table with an image and a label column (parquet, arrow, json, csv with "
            "paths)."
        },
    )
    image_column: str = field(
        default="image",
        metadata={"help": "Column of the image or of its path (CIFAR on the Hub: img)."},
    )
    label_column: str = field(
        default="label", metadata={"help": "Column of the class (CIFAR-100: fine_label)."}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Store only the images asked for of a Hub dataset, and stop reading once all "
            "have arrived (which needs max_images_per_class)."
        },
    )
    retain_size: float = field(
        default=256,
        metadata={
            "help": "Number of images in the retain set; below 1, the share of those that can be "
            "retained; -1, all of them."
        },
    )
    retain_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Proxy: dataset to draw the retain set from in place of the training data "
            "(for CIFAR-10, CINIC-10)."
        },
    )
    retain_config: str | None = field(
        default=None, metadata={"help": "Configuration of retain_dataset on the Hub."}
    )
    retain_split: str = field(default="train", metadata={"help": "Split of retain_dataset."})
    retain_image_column: str | None = field(
        default=None,
        metadata={"help": "Column of the image in retain_dataset; default: image_column."},
    )
    retain_label_column: str | None = field(
        default=None,
        metadata={"help": "Column of the class in retain_dataset; default: label_column."},
    )
    max_images_per_class: int | None = field(
        default=None, metadata={"help": "Maximum number of images of each class; default: all."}
    )
    skip_bad_images: bool = field(
        default=False, metadata={"help": "Leave out broken images, with one warning."}
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Number of processes that look for broken images."}
    )
