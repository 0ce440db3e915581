"""Images are read from folders, tables and the Hub, and split by class."""

import datasets
import pytest

from hf_unlearn.data.class_splits import ClassRequest
from hf_unlearn.data.images import load_images
from hf_unlearn.data.images.samples import decode_image
from hf_unlearn.data.images.splits import load_image_splits, prepare_image_splits, split_images
from tests.data.image_files import CLASSES, arguments, ids, picture, png, write_folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images")


class TestLoading:
    def test_a_folder_gives_its_classes_and_images(self, folder):
        rows, names = load_images(folder, split="train")
        assert names == CLASSES and len(rows) == 18
        assert set(rows["class"][:]) == set(CLASSES) and "train/dog/0.png" in ids(rows)

    @pytest.mark.parametrize("kind", ["parquet", "json"])
    def test_table_with_named_columns_and_text_labels(self, folder, tmp_path, kind):
        rows, _ = load_images(folder, split="train")
        if kind == "parquet":
            table = datasets.Dataset.from_dict(
                {
                    "img": [
                        {"bytes": png(picture(i))["bytes"], "path": "same.png"} for i in range(4)
                    ],
                    "kind": list("abab"),
                }
            )
            table.to_parquet(tmp_path / "table.parquet")
        else:
            # paths, relative to the table
            paths = ["images/" + name for name in sorted(ids(rows))[:4]]
            datasets.Dataset.from_dict({"img": paths, "kind": list("abab")}).to_json(
                tmp_path / "table.json"
            )
        rows, names = load_images(
            tmp_path / f"table.{kind}", split="train", image_column="img", label_column="kind"
        )
        assert names == ["a", "b"] and rows["class"][:] == list("abab") and len(ids(rows)) == 4
        assert decode_image(rows[0]["image"]).size == (8, 8)

    def test_streaming_takes_the_first_of_each_class_and_reads_no_further(self, monkeypatch):
        labels = [0, 0, 0, 1, 2, 1, 2, 0, 1, 2] * 10
        features = datasets.Features(
            {"img": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
        )
        images = [png(picture(i)) for i in range(len(labels))]
        hub = datasets.Dataset.from_dict({"img": images, "label": labels}, features)
        read = []

        def stream(*_, streaming, **__):
            assert streaming
            return hub.to_iterable_dataset().map(
                lambda row: read.append(1) or row, features=features
            )

        monkeypatch.setattr(datasets, "load_dataset", stream)
        rows, names = load_images(
            "someone/set", split="train", image_column="img", streaming=True, max_images_per_class=2
        )
        assert names == CLASSES
        assert sorted(rows["class"][:]) == ["cat", "cat", "dog", "dog", "owl", "owl"]
        assert rows["id"][0] == "train-000000000"
        assert decode_image(rows[0]["image"]).size == (8, 8)
        assert len(read) <= 64

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"split": "validation"}, "no split 'validation' in .*; it holds"),
            (
                {"split": "train", "label_column": "kind"},
                r"no class column 'kind' \(label_column\) .* its columns are image, label",
            ),
            ({"split": "train", "image_column": "img"}, "no image column 'img'"),
            ({"split": "train", "max_images_per_class": 0}, "max_images_per_class is 0"),
        ],
    )
    def test_missing_splits_and_columns_are_named(self, folder, options, message):
        with pytest.raises(ValueError, match=message):
            load_images(folder, **options)

    def test_sources_that_hold_nothing(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="holds no images"):
            load_images(tmp_path / "empty", split="train")
        with pytest.raises(ValueError, match="no file or folder"):
            load_images(tmp_path / "nowhere", split="train")
        (tmp_path / "table.xls").write_text("")
        with pytest.raises(ValueError, match="not a table of images"):
            load_images(tmp_path / "table.xls", split="train")

    def test_a_missing_label_is_counted(self, tmp_path):
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
        )
        table = datasets.Dataset.from_dict(
            {"image": [png(picture())] * 2, "label": [0, None]}, features
        )
        table.to_parquet(tmp_path / "table.parquet")
        with pytest.raises(ValueError, match="1 of 2 rows .* have no class"):
            load_images(tmp_path / "table.parquet", split="train")


class TestSplits:
    def test_a_class_is_forgotten(self, folder):
        splits = load_image_splits(arguments(folder), seed=0)
        assert set(splits.forget["class"]) == set(splits.forget_test["class"]) == {"dog"}
        sizes = {"forget": 6, "forget_test": 3, "retain": 6, "retain_pool": 12, "test": 6}
        assert splits.describe()["images"] == sizes
        assert sorted(splits.retain["class"]) == ["cat"] * 3 + ["owl"] * 3
        assert ids(splits.retain) <= ids(splits.retain_pool)
        assert list(splits.evaluation(2)) == ["forget", "forget_test", "retain", "test"]

    def test_what_is_retained_outside_of_the_retain_set(self, folder):
        splits = prepare_image_splits(
            load_image_splits(arguments(folder, retain_rest=4), seed=0), arguments(folder)
        )
        assert sorted(splits.retain_rest["class"]) == ["cat", "cat", "owl", "owl"]
        assert ids(splits.retain_rest) <= ids(splits.retain_pool) - ids(splits.retain)
        reported = ["forget", "forget_test", "retain", "retain_rest", "test"]
        assert list(splits.evaluation()) == reported

    def test_random_samples_come_from_all_classes_and_are_not_retained(self, folder):
        splits = load_image_splits(
            arguments(folder, forget_classes=[], forget_samples=0.5, retain_size=9), seed=0
        )
        assert len(splits.forget) == 9 and len(set(splits.forget["class"])) > 1
        assert not ids(splits.forget) & ids(splits.retain_pool) and len(splits.retain) == 9
        assert set(splits.test["class"]) == set(CLASSES)
        assert "forget_test" not in splits.evaluation()
        other = load_image_splits(arguments(folder, forget_classes=[], forget_samples=9), seed=1)
        assert ids(other.forget) != ids(splits.forget)

    def test_random_samples_of_a_class(self, folder):
        splits = load_image_splits(arguments(folder, forget_samples=2), seed=0)
        assert splits.forget["class"][:] == ["dog", "dog"]
        assert "dog" in splits.retain_pool["class"][:]

    def test_images_are_forgotten_by_their_ids(self, folder):
        chosen = ["train/cat/1.png", "train/owl/2.png"]
        splits = load_image_splits(arguments(folder, forget_classes=[], forget_ids=chosen), seed=0)
        assert splits.forget["id"][:] == chosen

    def test_without_a_test_split_a_share_of_each_class_is_unseen(self, folder):
        splits = load_image_splits(arguments(folder, test_split=None, held_out=0.34), seed=0)
        assert len(splits.forget) == 4 and len(splits.forget_test) == 2 and len(splits.test) == 4
        assert not ids(splits.test) & ids(splits.retain_pool)

    def test_a_proxy_gives_the_retain_set(self, folder, tmp_path):
        for name in ("cat", "dog", "owl", "yak"):
            (tmp_path / "proxy" / name).mkdir(parents=True)
            for take in range(4):
                picture(7 * take).save(tmp_path / "proxy" / name / f"{take}.png")
        proxy = {"retain_dataset": str(tmp_path / "proxy"), "retain_size": 4}
        splits = load_image_splits(
            arguments(folder, retain_classes=["cat", "owl"], **proxy), seed=0
        )
        assert sorted(splits.retain["class"]) == ["cat", "cat", "owl", "owl"]
        assert splits.describe()["proxy"]
        assert not ids(splits.retain) & ids(splits.retain_pool)
        with pytest.raises(ValueError, match="the retain set holds the forgotten class 'dog'"):
            load_image_splits(arguments(folder, **proxy), seed=0)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"forget_classes": ["doge"]},
                "unknown class 'doge' .* which has 3 classes: .*'dog'",
            ),
            ({"forget_classes": []}, "nothing to forget"),
            ({"forget_classes": CLASSES}, "no class but those to forget"),
            ({"retain_classes": ["dog", "cat"]}, "the retain set holds the forgotten class 'dog'"),
            ({"retain_classes": ["cow"]}, "unknown class 'cow'"),
            ({"retain_size": 99}, "retain_size is 99, but only 12 images are available"),
            ({"forget_classes": [], "forget_samples": 18}, "all 18 training images"),
            ({"forget_ids": ["x"]}, "leave out forget_classes"),
            ({"forget_classes": [], "forget_ids": ["x"]}, "not training images, such as 'x'"),
            ({"test_split": "train"}, "18 ids of images are in both"),
        ],
    )
    def test_requests_that_cannot_be_met(self, folder, options, message):
        with pytest.raises(ValueError, match=message):
            load_image_splits(arguments(folder, **options), seed=0)

    def test_data_with_no_class_to_retain_is_refused(self, folder):
        rows, names = load_images(folder, split="train")
        cats = rows.filter(lambda row: row["class"] == "cat")
        with pytest.raises(ValueError, match="no class but those to forget"):
            split_images(cats, names[:1], ClassRequest(forget_classes=["cat"], retain_size=1))
