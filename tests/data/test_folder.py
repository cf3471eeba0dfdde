"""A folder of images: a user's own images arrive as they are, and what cannot be read is named."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import digit, form_of
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.transforms import v2

from digits.data import DigitsDataModule
from digits.data.datasets import Mnist5k
from digits.data.folder import ImageFolder
from digits.errors import UserError
from digits.pictures.decode import read_picture
from digits.pictures.normal_form import find_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve digits of each of three classes, as png."""
    for label, name in enumerate(["nought", "one", "two"]):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            digit(500 * label + i).save(tmp_path / "images" / name / f"{i:02}.png")
    return tmp_path / "images"


def test_folder_is_what_torchvision_loads(folder: Path) -> None:
    (folder / ".hidden").mkdir()
    (folder / "one" / ".DS_Store").write_text("hidden")
    loaded, test, names, _ = ImageFolder(folder, image_size=28, channels=1).load()
    shutil.rmtree(folder / ".hidden")
    reference = TorchvisionFolder(str(folder), transform=v2.Compose([v2.Grayscale(), v2.PILToTensor()]))
    assert test is None
    assert names == tuple(reference.classes) == ("nought", "one", "two")
    images, target = zip(*reference, strict=True)
    assert torch.equal(loaded.images, torch.stack(images))
    assert loaded.target.tolist() == list(target)


def test_folder_is_split_by_class(folder: Path) -> None:
    data = DigitsDataModule("image_folder", root=str(folder), val_size=0.1, test_size=0.1, mean=None, std=None)
    data.prepare_data()
    data.setup()
    assert data.split_sizes == {"train": 28, "val": 4, "test": 4}
    assert data.num_classes == 3
    for part in vars(data.splits).values():
        assert set(part.target.tolist()) == {0, 1, 2}
    index = torch.cat([part.index for part in vars(data.splits).values()])
    assert sorted(index.tolist()) == list(range(36))
    assert data.title == "images"


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "bmp", "webp", "tif", "PNG", "gif", "avif"])
def test_folder_takes_the_usual_formats(suffix: str, folder: Path) -> None:
    digit(7).save(folder / "one" / f"new.{suffix}")
    loaded, *_ = ImageFolder(folder, image_size=28, channels=1).load()
    assert len(loaded) == 37
    new = loaded.images[24, 0].numpy().astype(int)  # the last of class one
    assert np.abs(new - np.asarray(digit(7))).mean() < 4  # some lose a little


def modes() -> dict[str, Image.Image]:
    """The same digit in the modes that files come in."""
    grey = digit(0)
    pixels = np.asarray(grey)
    alpha = Image.fromarray(np.zeros_like(pixels))
    alpha.putdata(255 - pixels.flatten())  # black ink, as much as there is paper
    ink = Image.merge("LA", (Image.new("L", grey.size, 0), alpha))
    return {
        "RGB": grey.convert("RGB"),
        "RGBA": ink.convert("RGBA"),
        "LA": ink,
        "P": grey.convert("P"),
        "I;16": Image.fromarray(pixels.astype(np.uint16) * 257),
        "1": grey.point(lambda value: 255 * (value > 127)).convert("1"),
    }


@pytest.mark.parametrize("mode", modes())
def test_folder_takes_every_mode(mode: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = modes()[mode]
    assert image.mode == mode
    image.save(folder / "nought" / "00.png")
    with caplog.at_level(logging.WARNING):
        loaded, *_ = ImageFolder(folder, image_size=28, channels=1).load()
    original = np.asarray(digit(0))
    expected = original if mode != "1" else 255 * (original > 127)
    # Black ink with (255 - value) of alpha over white paper is the value.
    np.testing.assert_allclose(loaded.images[0, 0].numpy(), expected, atol=1)
    assert ("images of 2 sizes and modes" in caplog.text) == (mode not in ("I;16", "1"))  # those two are grey too


def test_folder_in_colour(folder: Path) -> None:
    Image.new("RGB", (28, 28), (200, 100, 50)).save(folder / "one" / "00.png")
    loaded, *_ = ImageFolder(folder, image_size=28, channels=3).load()
    assert loaded.images.shape == (36, 3, 28, 28)
    assert loaded.images[12].flatten(1).unique(dim=1).flatten().tolist() == [200, 100, 50]
    assert torch.equal(loaded.images[0, 0], loaded.images[0, 2])  # grey has three equal channels


def test_folder_keeps_shapes_and_smooths(folder: Path) -> None:
    # Stripes of one pixel: without antialiasing, a quarter of the size would be all black or all white.
    stripes = np.tile(np.array([0, 255], np.uint8), (56, 56))  # 56 high, 112 wide
    Image.fromarray(stripes).save(folder / "one" / "00.png")
    wide = np.full((10, 40), 90, np.uint8)
    Image.fromarray(wide).save(folder / "one" / "01.png")
    loaded, *_ = ImageFolder(folder, image_size=28, channels=1).load()
    smooth = loaded.images[12, 0, 7:21, 2:26].numpy().astype(int)  # (14, 24): scaled by a quarter
    assert np.abs(smooth - 127).max() < 20
    assert (loaded.images[13] == 90).all()  # what the shape leaves free repeats the edge
    Image.fromarray(np.asarray(digit(0)).repeat(2, 0).repeat(2, 1)).save(folder / "one" / "02.png")
    reference = v2.functional.resize(v2.functional.pil_to_tensor(Image.open(folder / "one" / "02.png")), [28, 28])
    ours = ImageFolder(folder, image_size=28, channels=1).load()[0].images[14]
    assert (ours.int() - reference.int()).abs().max() <= 1


def test_folder_of_native_size(folder: Path) -> None:
    loaded, *_ = ImageFolder(folder, image_size=None, channels=1).load()
    assert torch.equal(loaded.images[0, 0], Mnist5k().load().train.images[0, 0])
    digit(0).resize((20, 20)).save(folder / "two" / "03.png")
    with pytest.raises(UserError, match=r"two/03.png has 20×20 L, .*nought/00.png, has 28×28 L.*Give data.image_size"):
        ImageFolder(folder, image_size=None, channels=1).load()
    digit(0).convert("RGB").save(folder / "two" / "03.png")
    with pytest.raises(UserError, match=r"two/03.png has 28×28 RGB, .*nought/00.png, has 28×28 L"):
        ImageFolder(folder, image_size=None, channels=1).load()
    for path in folder.glob("*/*.png"):
        digit(0).resize((20, 30)).save(path)
    with pytest.raises(UserError, match=r"square and alike, but .*nought/00.png has 20×30 L"):
        ImageFolder(folder, image_size=None, channels=1).load()


@pytest.mark.parametrize("values", ["8 bits in 16", "12 bits in 16"])
def test_files_of_16_bits_with_fewer(values: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are not black, and a line says for what they are taken."""
    as_they_were = ImageFolder(folder, image_size=28, channels=1).load()[0].images
    for path in folder.glob("*/*.png"):
        pixels = np.asarray(Image.open(path)).astype(np.uint16)
        Image.fromarray(pixels * (16 if values.startswith("12") else 1)).save(path)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(ImageFolder(folder, image_size=28, channels=1).load()[0].images, as_they_were)
    assert "36 of 36 images have 16 bits, but values that need no more than 8 or 12" in caplog.text
    assert f"nought/00.png for {values.split()[0]}, ..." in caplog.text


def test_blank_images(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """White ink on white, as of a program that drops the transparency: a few are named, and none but such refused."""
    for i, path in enumerate(sorted(folder.glob("*/*.png"))):
        if i in (3, 20):
            Image.new("L", (28, 28), 255).save(path)
    with caplog.at_level(logging.WARNING):
        ImageFolder(folder, image_size=28, channels=1).load()
    assert f"2 of 36 images are blank: every pixel of {folder}/nought/03.png is 255" in caplog.text
    for path in folder.glob("*/*.png"):
        ink = Image.new("RGBA", (40, 30), (255, 255, 255, 0))
        ink.paste((255, 255, 255, 255), (10, 10, 14, 25))
        ink.convert("RGB").save(path)
    for channels, pixel in ((1, "255"), (3, "255, 255, 255")):
        with pytest.raises(UserError, match=r"36 of 36 images are blank: .*/nought/00.png is .*transparency") as error:
            ImageFolder(folder, image_size=28, channels=channels).load()
        assert f"00.png is {pixel}. Ink saved" in str(error.value)
        assert "\n" not in str(error.value)


def test_what_a_mac_leaves_is_no_picture(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "one" / "._00.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    with caplog.at_level(logging.WARNING):
        assert len(ImageFolder(folder, image_size=28, channels=1).load()[0]) == 36
    assert not caplog.text
    (folder / "one" / "folder.png").mkdir()
    assert len(ImageFolder(folder, image_size=28, channels=1).load()[0]) == 36


def test_broken_image_is_named(folder: Path) -> None:
    path = folder / "two" / "05.png"
    good = path.read_bytes()
    for bad in (good[:100], b"", b"text", good[:-40]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=f"{path}: (no picture|an empty file)") as error:
            ImageFolder(folder, image_size=28, channels=1).load()
        assert "\n" not in str(error.value)


def test_fractional_pixels_are_refused(folder: Path) -> None:
    Image.fromarray(np.ones((28, 28), np.float32)).save(folder / "two" / "new.tif")
    with pytest.raises(UserError, match=r"new.tif.*8 bits"):
        ImageFolder(folder, image_size=28, channels=1).load()


def test_other_files_are_left_out_aloud(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "one" / "notes.txt").write_text("no image")
    with caplog.at_level(logging.WARNING):
        assert len(ImageFolder(folder, image_size=28, channels=1).load()[0]) == 36
    assert "1 left out" in caplog.text
    assert "notes.txt" in caplog.text


def test_folder_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.root=.*no such folder"):
        ImageFolder(tmp_path / "nowhere", image_size=28, channels=1).load()
    with pytest.raises(UserError, match="no class folders"):
        ImageFolder(folder / "one", image_size=28, channels=1).load()
    (folder / "three").mkdir()
    with pytest.raises(UserError, match=r"folder three has no images"):
        ImageFolder(folder, image_size=28, channels=1).load()
    for name in ("two", "one", "three"):
        shutil.rmtree(folder / name)
    with pytest.raises(UserError, match="only one class folder, nought"):
        ImageFolder(folder, image_size=28, channels=1).load()
    with pytest.raises(
        UserError, match=r"data.root=null: give the folder that holds a folder of images for each class"
    ):
        DigitsDataModule("image_folder", root=None)


def test_class_with_one_image_is_named(folder: Path) -> None:
    (folder / "lonely").mkdir()
    digit(3).save(folder / "lonely" / "one.png")
    for test_size, val_size, folds in ((0.1, 0.1, None), (0.5, 0, None), (0.1, 0.1, 3)):
        data = DigitsDataModule("image_folder", str(folder), test_size=test_size, val_size=val_size, folds=folds)
        with pytest.raises(UserError, match=r"class lonely has 1 (of 37 )?images") as error:
            data.setup()
        assert folds or "it needs" in str(error.value)


def test_training_files_read_the_same_in_predict(tmp_path: Path) -> None:
    """Ink on a transparent ground, light, grey or dark: it is put on the ground that shows it, here as there."""
    for name, value in {"dark": 0, "grey": 128, "light": 255}.items():
        (tmp_path / name).mkdir()
        for i in range(3):
            alpha = digit(500 * i + 3).resize((60, 40))
            Image.merge("LA", (Image.new("L", alpha.size, value), alpha)).save(tmp_path / name / f"{i}.png")
    for channels in (1, 3):
        loaded, *_ = ImageFolder(tmp_path, image_size=28, channels=channels).load()
        form = form_of("image_folder", 28, channels)
        for image, path in zip(loaded.images, sorted(tmp_path.glob("*/*.png")), strict=True):
            assert np.array_equal(image.numpy(), find_image(read_picture(path), form).image)
            assert np.ptp(image.numpy()) > 100  # the ink shows
