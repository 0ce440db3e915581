"""Images are decoded, processed and labelled as the model needs them."""

import io
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import ViTImageProcessor

from hf_unlearn.data.class_labels import labels_of
from hf_unlearn.data.images import load_images
from hf_unlearn.data.images.samples import ImageRows, RandomShift, decode_image, drop_broken
from hf_unlearn.data.images.splits import load_image_splits, prepare_image_splits
from tests.data.image_files import arguments, picture, png, write_folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images")


class TestDecoding:
    def test_every_kind_becomes_rgb(self):
        for mode in ("L", "LA", "RGBA", "P", "1", "CMYK"):
            image = picture(mode=mode if mode != "CMYK" else "RGB")
            assert decode_image(png(image)).mode == "RGB"
        assert decode_image(png(picture()), channels=1).mode == "L"

    def test_grey_of_16_bits_is_scaled_not_cut(self):
        values = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
        decoded = np.asarray(decode_image(png(PIL.Image.fromarray(values)), channels=1))
        assert decoded.tolist() == [[0, 0, 1, 255]]

    def test_images_are_turned_as_their_camera_says(self):
        file, exif = io.BytesIO(), PIL.Image.Exif()
        exif[274] = 6
        picture(size=(4, 8)).save(file, "JPEG", exif=exif)
        assert decode_image({"bytes": file.getvalue(), "path": None}).size == (4, 8)

    @pytest.mark.parametrize("cut", [0, 3, 60])
    def test_a_file_that_is_no_image_is_refused(self, cut):
        with pytest.raises(ValueError, match="cannot be read as an image"):
            decode_image({"bytes": png(picture())["bytes"][:cut], "path": None})
        with pytest.raises(ValueError, match="cannot be read as an image"):
            decode_image({"bytes": None, "path": "nowhere.png"})

    def test_a_broken_image_is_named_or_left_out(self, folder, caplog):
        (folder / "train" / "dog" / "3.png").write_bytes(b"no image")
        args = arguments(folder)
        with pytest.raises(
            ValueError, match="image train/dog/3.png cannot be read .* skip_bad_images"
        ):
            prepare_image_splits(load_image_splits(args, seed=0), args)
        args.skip_bad_images = True
        splits = prepare_image_splits(load_image_splits(args, seed=0), args)
        assert len(splits.forget) == 5 and "skipped 1 of 6 images" in caplog.text

    def test_nothing_but_broken_images(self, folder):
        rows, _ = load_images(folder, split="train")
        bad = rows.map(
            lambda row: {"image": {"bytes": b"no image", "path": None}}, features=rows.features
        )
        with pytest.raises(ValueError, match="none of the 18 images"):
            drop_broken(bad, skip=True)


class TestPixels:
    def rows(self, folder, channels=3, **options):
        rows, _ = load_images(folder, split="train")
        mean = [0.5] * channels
        processor = ViTImageProcessor(
            size={"height": 16, "width": 16}, image_mean=mean, image_std=mean
        )
        return ImageRows(rows, processor, {"cat": 5, "dog": 1, "owl": 2}, channels, **options), rows

    @pytest.mark.parametrize("channels", [1, 3])
    def test_samples_have_normalised_pixels_and_the_models_labels(self, folder, channels):
        images, rows = self.rows(folder, channels)
        assert images[0]["pixel_values"].shape == (channels, 16, 16) and len(images) == 18
        assert [images[row]["labels"] for row in range(18)] == [
            {"cat": 5, "dog": 1, "owl": 2}[name] for name in rows["class"]
        ]
        wanted = decode_image(rows[3]["image"], channels).resize(
            (16, 16), PIL.Image.Resampling.BILINEAR
        )
        wanted = (
            torch.tensor(np.asarray(wanted)).view(16, 16, channels).permute(2, 0, 1) / 127.5 - 1
        )
        torch.testing.assert_close(images[3]["pixel_values"], wanted.float(), atol=1e-5, rtol=0)

    def test_pixels_are_the_same_with_and_without_torchvision(self, folder):
        pytest.importorskip("torchvision")
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        images, rows = self.rows(folder)
        plain = ViTImageProcessorPil(**images.processor.to_dict())
        other = ImageRows(rows, plain, {"cat": 5, "dog": 1, "owl": 2})
        torch.testing.assert_close(
            images[0]["pixel_values"], other[0]["pixel_values"], atol=2 / 127.5, rtol=0
        )

    def test_augmentation_is_drawn_anew_and_moves_the_image(self, folder):
        images, _ = self.rows(folder, augment=RandomShift(2, flip=False))
        drawn = {tuple(images[0]["pixel_values"].flatten().tolist()) for _ in range(40)}
        assert 5 < len(drawn) <= 25
        unmoved, _ = self.rows(folder)
        assert torch.equal(
            RandomShift(0, False)(unmoved[0]["pixel_values"]), unmoved[0]["pixel_values"]
        )

    def test_images_are_mirrored_at_random(self):
        pixels = torch.arange(6.0).view(1, 2, 3)
        seen = {tuple(RandomShift(0, True)(pixels).flatten().tolist()) for _ in range(30)}
        assert seen == {(0, 1, 2, 3, 4, 5), (2, 1, 0, 5, 4, 3)}


class TestLabels:
    def head(self, *names):
        return SimpleNamespace(
            num_labels=len(names), label2id={name: label for label, name in enumerate(names)}
        )

    def test_labels_follow_the_names_of_the_models_classes(self):
        assert labels_of(["dog", "cat"], self.head("cat", "cow", "dog")) == {"dog": 2, "cat": 0}

    def test_in_order_where_the_head_has_no_names(self):
        assert labels_of(["dog", "cat"], self.head("LABEL_0", "LABEL_1")) == {"dog": 0, "cat": 1}

    def test_other_names_in_order_are_warned_of(self, caplog):
        assert labels_of(["airplane", "car"], self.head("plane", "automobile")) == {
            "airplane": 0,
            "car": 1,
        }
        assert "matched in order" in caplog.text

    @pytest.mark.parametrize("names", [("cat", "cow", "owl"), ("LABEL_0",), ("cow", "dog")])
    def test_what_does_not_fit_is_refused(self, names):
        with pytest.raises(ValueError, match="do not fit the data's 2 classes"):
            labels_of(["dog", "cat"], self.head(*names))
