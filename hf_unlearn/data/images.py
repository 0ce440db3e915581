"""Images of known classes: the options, where they come from (the Hub, folders, tables), and what a model takes."""

import io
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import datasets
import fsspec
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from datasets import ClassLabel, Features, Image, Value
from datasets.exceptions import DatasetGenerationError
from torch.utils.data import Dataset

logger = logging.getLogger(__name__)

UNDECODED = {"bytes": Value("binary"), "path": Value("string")}  # what Image(decode=False) stores
ROWS = Features({"id": Value("string"), "class": Value("string"), "image": UNDECODED})
TABLES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow"}
STREAM_BATCH = 32  # rows decompressed at once
REMEMBERED = 2**28  # bytes of pixel values that are kept in memory once they are computed
MODES = {1: "L", 3: "RGB"}  # channels of a model: mode of PIL


@dataclass
class ImageArguments:
    """The data of an image recipe: where it is, what is forgotten, how much is retained."""

    _argument_group_name = "data"

    dataset: str = field(
        default="uoft-cs/cifar10",
        metadata={
            "help": "Hub id; folder of images, <split>/<class>/<image> or with metadata.csv; folder or table with an "
            "image and a label column (parquet, arrow, json, csv with paths)"
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration on the Hub"})
    train_split: str = field(default="train", metadata={"help": "Split that the model was trained on"})
    test_split: str | None = field(
        default=None, metadata={"help": "Split of unseen images; without it a share of train_split is held out"}
    )
    image_column: str = field(default="image", metadata={"help": "Column of the image (CIFAR on the Hub: img)"})
    label_column: str = field(default="label", metadata={"help": "Column of the class (CIFAR-100: fine_label)"})
    id_column: str = field(
        default="id", metadata={"help": "Column of unique ids; where there is none, paths or row numbers are the ids"}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Keep only the images asked for of a Hub set, and stop reading once all are there (which takes "
            "max_images_per_class)"
        },
    )
    forget_classes: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of the classes to forget; with forget_samples: of the classes to draw them from"},
    )
    forget_samples: float | None = field(
        default=None,
        metadata={"help": "Forget so many training images drawn at random, not classes; below 1, the share of them"},
    )
    forget_ids: list[str] = field(default_factory=list, metadata={"help": "Forget the training images of these ids"})
    held_out: float = field(
        default=0.1, metadata={"help": "Share of each class kept out of training, where there is no test_split"}
    )
    retain_size: float = field(
        default=256, metadata={"help": "Images in the retain set; below 1, the share of those that can be retained"}
    )
    retain_classes: list[str] = field(
        default_factory=list, metadata={"help": "Classes that the retain set is drawn from; none: all not forgotten"}
    )
    retain_dataset: str | None = field(
        default=None,
        metadata={"help": "A proxy: draw the retain set from this dataset in place of the training data (CINIC-10)"},
    )
    retain_config: str | None = field(default=None, metadata={"help": "retain_dataset: configuration on the Hub"})
    retain_split: str = field(default="train", metadata={"help": "retain_dataset: split"})
    retain_image_column: str | None = field(
        default=None, metadata={"help": "retain_dataset: column of the image; else image_column"}
    )
    retain_label_column: str | None = field(
        default=None, metadata={"help": "retain_dataset: column of the class; else label_column"}
    )
    max_images_per_class: int | None = field(default=None, metadata={"help": "Use at most so many of a class"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on at most so many of each split"})
    skip_bad_images: bool = field(default=False, metadata={"help": "Leave out broken images, with one warning"})
    num_proc: int | None = field(default=None, metadata={"help": "Processes that look for broken images"})

    def __post_init__(self):
        for name in ("forget_classes", "forget_ids", "retain_classes"):
            setattr(self, name, _as_names(getattr(self, name)))


def _as_names(names) -> list[str]:
    # YAML reads 3 as a number, and one name as no list.
    if names is None:
        return []
    return [str(name) for name in (names if isinstance(names, list | tuple) else [names])]


def load_images(
    source: str | Path,
    *,
    split: str,
    config: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    id_column: str = "id",
    streaming: bool = False,
    max_images_per_class: int | None = None,
) -> tuple[datasets.Dataset, list[str]]:
    """Images of a split: rows with id, class (str) and image ({"bytes", "path"}, not decoded), and all class names.

    Args:
        source: Hub id, or a folder or table as in `ImageArguments.dataset`.
        id_column: without such a column, the id is the path within the folder, or the split and the row number.
        streaming: read a Hub set as it arrives, store only the rows asked for in the cache of `datasets`, and end as
            soon as each class has `max_images_per_class`.
        max_images_per_class: keeps the first ones.

    Returns:
        rows; names of the classes in the order of their labels (sorted, where the labels are texts or numbers).

    Raises:
        ValueError: unknown source, split or column; rows without image or class; ids that repeat; no rows.
    """
    if max_images_per_class is not None and max_images_per_class < 1:
        raise ValueError(f"max_images_per_class is {max_images_per_class}: give a positive number, or none for all")
    columns = {"id": id_column, "class": label_column, "image": image_column}
    source = os.path.expanduser(str(source))
    root = None
    if os.path.exists(source):
        root = Path(source).absolute()
        rows = _load_local(root, config, split)
        root = root if root.is_dir() else root.parent
    elif os.path.isabs(source) or source.startswith(".") or source.count("/") > 1:
        raise ValueError(f"no file or folder {source}")
    elif streaming:
        rows, names = _load_stream(source, config, split, columns, max_images_per_class)
        return _standardise(rows, dict(zip(columns, columns)), source, split, None)[0], names
    else:
        rows = datasets.load_dataset(source, config, split=split)
    rows, names = _standardise(rows, columns, source, split, root)
    return _first_of_each(rows, max_images_per_class), names


def check_classes(wanted: Iterable[str], known: Iterable[str], source: str | Path) -> None:
    """Raises ValueError, with the nearest names, where one of `wanted` is not among `known`."""
    known = sorted(set(known))
    for name in wanted:
        if name not in known:
            nearest = ", ".join(repr(near) for near in get_close_matches(name, known, cutoff=0))
            raise ValueError(f"unknown class {name!r} in {source}: the nearest of its {len(known)} classes: {nearest}")


def _load_local(source: Path, config: str | None, split: str) -> datasets.Dataset:
    if source.is_file() and source.suffix not in TABLES:
        raise ValueError(f"{source} is no table of images: give one that ends in {', '.join(TABLES)}, or a folder")
    try:
        if source.is_file():
            tables = datasets.load_dataset(TABLES[source.suffix], data_files=str(source))
        else:
            tables = datasets.load_dataset(str(source), config)
    except FileNotFoundError as error:
        raise ValueError(f"{source} holds no images or tables of them: {error}") from None
    if split not in tables:
        raise ValueError(f"no split '{split}' in {source}; it holds {', '.join(map(str, tables))}")
    return tables[split]


def _check_columns(names: list[str], columns: dict[str, str], source: str | Path) -> None:
    for role in ("image", "class"):
        if columns[role] not in names:
            hint = ": images of one folder only have no class" if names == ["image"] else ""
            option = {"image": "image_column", "class": "label_column"}[role]
            raise ValueError(
                f"no {role} column '{columns[role]}' ({option}) in {source}; its columns are {', '.join(names)}{hint}"
            )


def _standardise(rows, columns: dict[str, str], source, split: str, root: Path | None):
    _check_columns(rows.column_names, columns, source)
    if not len(rows):
        raise ValueError(f"split '{split}' of {source} holds no images")
    rows = rows.with_format(None)
    classes, names = _class_names(rows[columns["class"]][:], rows.features[columns["class"]], columns["class"], source)
    images = _undecoded(rows, columns["image"], source, root)
    paths = images.flatten()["image.path"][:]  # without the bytes
    given = rows[columns["id"]][:] if columns["id"] in rows.column_names else None
    ids = _ids(given, paths, split, root, source)
    for name, values in {"id": ids, "class": classes}.items():
        images = images.add_column(name, values, feature=ROWS[name])
    return images.select_columns(list(ROWS)), names


def _class_names(labels: list, feature, column: str, source) -> tuple[list[str], list[str]]:
    """The class of each row, and all classes in the order of their labels."""
    missing = sum(
        label is None or label == "" or (label == -1 and isinstance(feature, ClassLabel)) for label in labels
    )
    if missing:
        raise ValueError(f"{missing} of {len(labels)} rows of {source} have no class in column '{column}'")
    if isinstance(feature, ClassLabel):
        return feature.int2str(labels), list(feature.names)
    if not isinstance(labels[0], int | str):
        raise ValueError(
            f"label column '{column}' of {source} holds {feature}: one number or name per image is needed"
        )
    return [str(label) for label in labels], [str(label) for label in sorted(set(labels))]


def _undecoded(rows, column: str, source, root: Path | None):
    """The images alone, as a column image of {"bytes", "path"}."""
    feature = rows.features[column]
    if feature in (Value("string"), Value("large_string")):
        paths = [path and str(root / path if root else path) for path in rows[column][:]]
        images = datasets.Dataset.from_dict({"image": paths}, Features({"image": Value("string")}))
    elif isinstance(feature, Image) or feature in (Value("binary"), Value("large_binary"), UNDECODED):
        images = rows.select_columns(column).rename_columns({column: "image"})
    else:
        raise ValueError(f"image column '{column}' of {source} holds {feature}, not images or their paths")
    images = images.cast_column("image", Image(decode=False))
    missing = images.with_format("arrow")[:]["image"].null_count
    if missing:
        raise ValueError(f"{missing} of {len(rows)} rows of {source} have no image in column '{column}'")
    return images


def _ids(given: list | None, paths: list, split: str, root: Path | None, source) -> list[str]:
    inside = root is not None and all(path and Path(path).is_relative_to(root) for path in paths)
    if given is not None:
        ids = [str(name) for name in given]
    elif inside:
        ids = [Path(path).relative_to(root).as_posix() for path in paths]
    else:  # paths in tables of the Hub repeat, and say nothing of the split
        ids = [f"{split}-{row:09d}" for row in range(len(paths))]
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated and given is not None:
        raise ValueError(
            f"{len(repeated)} ids of {source} are not unique, among them '{repeated[0]}': name another id_column"
        )
    return [f"{name}#{row}" for row, name in enumerate(ids)] if repeated else ids


def _first_of_each(rows: datasets.Dataset, limit: int | None) -> datasets.Dataset:
    if limit is None:
        return rows
    counts, chosen = Counter(), []
    for row, name in enumerate(rows["class"][:]):
        counts[name] += 1
        if counts[name] <= limit:
            chosen.append(row)
    return rows.select(chosen)


def _load_stream(source: str, config: str | None, split: str, columns: dict, limit: int | None):
    options = {"source": source, "config": config, "split": split, "columns": columns, "limit": limit}
    try:  # cached by these options, all of them plain values
        rows = datasets.Dataset.from_generator(_stream, ROWS, gen_kwargs=options)
    except DatasetGenerationError as error:
        if not isinstance(error.__cause__, ValueError):
            raise
        raise ValueError(str(error.__cause__)) from None
    feature = (datasets.load_dataset(source, config, split=split, streaming=True).features or {}).get(columns["class"])
    names = list(feature.names) if isinstance(feature, ClassLabel) else sorted(set(rows["class"][:]))
    return rows, names


def _stream(source, config, split, columns, limit) -> Iterator[dict]:
    """At most `limit` rows of each class, read no further than needed."""
    stream, counts, number = datasets.load_dataset(source, config, split=split, streaming=True), Counter(), 0
    feature = (stream.features or {}).get(columns["class"])
    everything = set(feature.names) if isinstance(feature, ClassLabel) else None
    for batch in stream.with_format("arrow").iter(STREAM_BATCH):
        _check_columns(batch.column_names, columns, source)
        names, _ = _class_names(batch[columns["class"]].to_pylist(), feature, columns["class"], source)
        for position, name in enumerate(names):
            if limit is None or counts[name] < limit:
                counts[name] += 1
                row = batch.slice(position, 1).to_pylist()[0]
                own = row.get(columns["id"])
                yield {
                    "id": f"{split}-{number + position:09d}" if own is None else str(own),
                    "class": name,
                    "image": _fetched(row[columns["image"]], source),
                }
        number += len(names)
        if limit and everything and all(counts[name] >= limit for name in everything):
            return
    if number == 0:
        raise ValueError(f"split '{split}' of {source} holds no images")


def _fetched(image: dict | None, source: str) -> dict:
    """The image with its bytes, where so far it only names a remote file."""
    if not isinstance(image, dict):
        raise ValueError(f"the image column of {source} holds {image!r}, not images")
    if image["bytes"] is None and image["path"]:
        with fsspec.open(image["path"], "rb") as file:
            return {"bytes": file.read(), "path": image["path"]}
    return image


def decode_image(image: dict, channels: int = 3) -> PIL.Image.Image:
    """The image of {"bytes", "path"}, turned as its EXIF data say, in grey (channels = 1) or RGB (3).

    Palettes and transparency are resolved as by PIL's `convert` (transparency is dropped), 16-bit grey is scaled to 8.

    Raises:
        ValueError: missing or broken file, or values that have no range (modes I and F); the message names it not.
    """
    try:
        picture = PIL.Image.open(image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"]))
        picture.load()
        picture = PIL.ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, AttributeError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be read as an image ({error})") from None
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture, dtype=np.uint16) >> 8
        picture = PIL.Image.fromarray(values.astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"has pixels of mode {picture.mode}, whose range is not known: save it with 8 bits a channel")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert(MODES[channels])


def drop_broken(rows: datasets.Dataset, *, skip: bool, num_proc: int | None = None, description: str = "images"):
    """The rows whose images can be decoded.

    Raises:
        ValueError: an image cannot, and `skip` is False; or none can. The message names it.
    """
    if not len(rows):
        return rows
    errors = rows.map(_error_of, remove_columns=rows.column_names, num_proc=num_proc, desc=f"reading {description}")[
        "error"
    ][:]
    bad = [row for row, error in enumerate(errors) if error]
    if not bad:
        return rows
    ids, first = rows["id"][:], bad[0]
    if not skip:
        raise ValueError(
            f"image {ids[first]} {errors[first]} ({len(bad)} of {len(rows)} in {description}): remove it, or pass "
            "skip_bad_images to leave such images out"
        )
    if len(bad) == len(rows):
        raise ValueError(f"none of the {len(rows)} images of {description} can be read, such as {ids[first]}")
    shown = ", ".join(ids[row] for row in bad[:5])
    logger.warning("%s: skipped %d of %d images that cannot be read: %s", description, len(bad), len(rows), shown)
    return rows.select([row for row, error in enumerate(errors) if not error])


def _error_of(row: dict) -> dict:
    try:
        decode_image(row["image"])
    except ValueError as error:
        return {"error": str(error)}
    return {"error": ""}


class ImageRows(Dataset):
    """What a model takes, image by image: pixel_values (channels, height, width) and labels (int).

    Args:
        rows: as `load_images` gives them.
        processor: an image processor of transformers, with or without torchvision.
        labels: label of each class.
        channels: of the model, 1 or 3.
        augment: changes the pixel values, anew each time.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor,
        labels: dict[str, int],
        channels: int = 3,
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.rows, self.processor, self.channels, self.augment = rows, processor, channels, augment
        self.labels = [labels[name] for name in rows["class"][:]]
        self.remembered: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        pixels = self.remembered.get(index)
        if pixels is None:
            pixels = self._process(index)
            if pixels.nbytes * len(self) <= REMEMBERED:
                self.remembered[index] = pixels
        return {"pixel_values": self.augment(pixels) if self.augment else pixels, "labels": self.labels[index]}

    def _process(self, index: int) -> torch.Tensor:
        picture = decode_image(self.rows[index]["image"], self.channels)
        # A grey picture has no axis of channels, which processors take it to have.
        image = picture if self.channels == 3 else np.array(picture)[:, :, None]
        return self.processor(image, return_tensors="pt")["pixel_values"][0]


@dataclass(frozen=True)
class Moved:
    """Augmentation: moves an image by up to `shift` pixels each way (the edge is repeated), and may mirror it."""

    shift: int
    flip: bool

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: (channels, height, width)."""
        _, height, width = pixels.shape
        padded = torch.nn.functional.pad(pixels[None], [self.shift] * 4, mode="replicate")[0]
        top, left = torch.randint(2 * self.shift + 1, (2,)).tolist()
        moved = padded[:, top : top + height, left : left + width]
        return moved.flip(2) if self.flip and torch.rand(()) < 0.5 else moved


def labels_of(classes: list[str], config) -> dict[str, int]:
    """The label that a model's head has for each class, by name; by order where the head has no names of its own.

    Raises:
        ValueError: the head has other labels.
    """
    known = {str(name): label for name, label in config.label2id.items()}
    if set(classes) <= set(known):
        return {name: known[name] for name in classes}
    in_order = {name: label for label, name in enumerate(classes)}
    contradicted = [name for name in classes if name in known and known[name] != in_order[name]]
    if config.num_labels != len(classes) or contradicted:
        raise ValueError(
            f"the model's head has {config.num_labels} labels ({', '.join(list(known)[:3])}, ...), which do not fit "
            f"the data's {len(classes)} classes ({', '.join(classes[:3])}, ...): give a model trained on this data, or "
            "train one with model: train and base_model"
        )
    if set(known) != {f"LABEL_{label}" for label in range(len(classes))}:
        logger.warning("The model's labels have other names than the data's classes: they are matched in order.")
    return in_order
