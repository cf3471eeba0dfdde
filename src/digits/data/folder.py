"""A user's own images: a folder for each class, or a CSV that lists them."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from digits.data.dataset import DataSet, Form
from digits.data.tables import SPLITS, Listed, listed_images
from digits.errors import UserError
from digits.pictures.decode import BITS, IMAGE_SUFFIXES, ORIGINAL_SIZE, is_picture_by_name, read_picture
from digits.pictures.normal_form import NothingFoundError, find_image

if TYPE_CHECKING:
    from digits.data.images import Loaded

log = logging.getLogger(__name__)


class ImageFolder(DataSet):
    """The images in `root/<class name>/`: classes by name, the images of each by file name.

    Where `root` has a folder `train` of such folders, and maybe `val` and `test`, these are the splits. Or `root` is a
    CSV of file names and labels, and maybe splits: see `digits.data.tables`.

    Each is decoded and brought to its size as `digits.predict` does it: 8 bits, on white or black where it is
    transparent, scaled with antialiasing to fit a square; what its shape leaves free repeats its edge. Hidden files and
    those without an image's suffix are left out; a warning says how many.
    """

    name = "image_folder"
    holds = "a folder of images for each class, or train/, val/ and test/ with these; or a CSV of files and labels"
    own_root = True
    has_test_images = False

    @property
    def title(self) -> str:
        """The folder's name, of a CSV with its own: another one holds other images."""
        return f"{self.root.absolute().parent.name}/{self.root.name}" if self.is_table else self.root.name

    @property
    def is_table(self) -> bool:
        return self.root.suffix.lower() == ".csv" and not self.root.is_dir()

    def load(self, form: Form | None = None, broken: dict[Path, str] | None = None) -> "Loaded":
        """Decodes every image.

        Args:
            form: that of another data set, into which each image is to be brought; None: this one's own.
            broken: gets the files that cannot be decoded, which are left out, with what is wrong; None: none may be.

        Raises:
            UserError: if there are no two classes, a class is empty, an image is damaged or unlike the others, or all
                are blank; if a class is among the validation or test images alone.
        """
        import torch

        from digits.data.images import Loaded, TensorImages

        listed = listed_images(self.root) if self.is_table else self._in_folders()
        class_names = self._class_names(listed)
        pixels = self._decoded([one.path for one in listed], form, broken)
        listed = [one for one in listed if one.path not in (broken or {})]
        images = torch.from_numpy(pixels)
        target = torch.tensor([class_names.index(one.label) for one in listed])
        parts = {"train": TensorImages(images[:0], target[:0])}
        for name in ("train", "val", "test"):
            if chosen := [i for i, one in enumerate(listed) if one.split == name]:
                files = np.array([str(listed[i].path) for i in chosen])
                parts[name] = TensorImages(images[chosen], target[chosen], files=files)
        loaded = Loaded(parts["train"], parts.get("test"), class_names, parts.get("val"))
        _warn_of_doubles(self.root, loaded)
        return loaded

    def _class_names(self, listed: Sequence[Listed]) -> tuple[str, ...]:
        """Those of the training images, sorted."""
        known = sorted({one.label for one in listed if one.split == "train"})
        strange = [one for one in listed if one.label not in known]
        problem = ""
        if len(known) < 2:
            found = f"training images of one class only, {known[0]}" if known else "no training images"
            problem = f"{found}. There have to be two or more classes"
        elif strange:
            problem = f"{strange[0].said}: class {strange[0].label} has no training images ({', '.join(known)} have)"
        if problem:
            raise UserError(f"data.root={self.root}: {problem}")
        return tuple(known)

    def _decoded(self, paths: Sequence[Path], form: Form | None, broken: dict[Path, str] | None) -> np.ndarray:
        """Each image in the form, uint8 of shape (N, C, H, W)."""
        arrays, kinds, nothing_found, few_bits = [], [], [], []
        for path in paths:
            try:
                picture = read_picture(path)
            except UserError as error:
                if broken is None:
                    raise
                broken[path] = str(error)
                continue
            width, height = picture.info.get(ORIGINAL_SIZE, picture.size)
            kinds.append((width, height, picture.mode))
            if picture.info.get(BITS, 16) < 16:
                few_bits.append(f"{path} for {picture.info[BITS]}")
            if self.image_size is None and form is None and (kinds[-1] != kinds[0] or width != height):
                raise UserError(
                    f"data.image_size=null: images that stay as they are have to be square and alike, but {path} has"
                    f" {_described(kinds[-1])}, and the first, {paths[0]}, has {_described(kinds[0])}."
                    " Give data.image_size and data.channels to have all made alike"
                )
            wanted = form or Form(self.image_size or picture.width, self.channels, None, None, self.light_on_dark)
            try:
                arrays.append(find_image(picture, wanted).image)
            except NothingFoundError:
                nothing_found.append(path)
                arrays.append(find_image(picture, replace(wanted, fit=None, centre=None)).image)
        if broken:
            paths = [path for path in paths if path not in broken]
            if not paths:
                raise UserError(f"data.root={self.root}: none of its images can be read: {next(iter(broken.values()))}")
        if len(set(kinds)) > 1 and form is None:
            made = f"{arrays[0].shape[2]}×{arrays[0].shape[1]} {'grey' if self.channels == 1 else 'RGB'}"
            _warn(
                f"{self.root}: images of {len(set(kinds))} sizes and modes, from {_described(min(kinds))} to"
                f" {_described(max(kinds))}; all are made {made}"
            )
        if nothing_found:
            _warn(
                f"{self.root}: {len(nothing_found)} of {len(paths)} images are only scaled, because no digit was found"
                f" in them: {nothing_found[0]}, ..."
            )
        if few_bits:
            _warn(
                f"{self.root}: {len(few_bits)} of {len(paths)} images have 16 bits, but values that need no more than 8"
                f" or 12, and are taken for such: {few_bits[0]}, ..."
            )
        _refuse_blanks(self.root, images := np.stack(arrays), paths)
        return images

    def _in_folders(self) -> list[Listed]:
        """The images of each split and class."""
        splits, problem = self._splits()
        listed, left_out = [], []
        for split, place in () if problem else splits.items():
            classes = [folder for folder in _visible(place) if folder.is_dir()]
            for folder in classes:
                found = _visible(folder)
                images = [path for path in found if is_picture_by_name(path)]
                left_out += [path for path in found if path not in images]
                listed += [Listed(path, folder.name, split, str(folder)) for path in images]
                if not images and split == "train":
                    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
                    problem = f"its folder {folder.name} has no images. Put some there ({suffixes}), or remove it"
            if len(classes) < 2 and split == "train":
                found_classes = f"only one class folder, {classes[0].name}" if classes else "no class folders"
                problem = f"{found_classes}. It has to hold a folder of images for each of two or more classes"
            elif not any(one.split == split for one in listed):
                problem = f"its folder {place.name} has no folders of images, one for each class. Remove it, or fill it"
        if left_out:
            _warn(f"{self.root}: {len(left_out)} left out, no images by their names: {left_out[0]}, ...")
        if problem:
            raise UserError(f"data.root={self.root}: {problem}")
        return listed

    def _splits(self) -> tuple[dict[str, Path], str]:
        """The folder of each split, and what is wrong; where there are none, all of `root` is for training."""
        if not self.root.is_dir():
            return {}, f"no such folder. Give the one that holds {self.holds}"
        folders = [folder for folder in _visible(self.root) if folder.is_dir()]
        training = [folder for folder in folders if SPLITS.get(folder.name.lower()) == "train"]
        if not any(inner.is_dir() for folder in training for inner in _visible(folder)):
            return {"train": self.root}, ""
        splits: dict[str, Path] = {}
        for folder in folders:
            split = SPLITS.get(folder.name.lower(), "")
            if not split or split in splits:
                beside = splits[split].name if split else "train"
                return {}, f"beside {beside}, {folder.name} is no split. There are train, val and test; rename it"
            splits[split] = folder
        return splits, ""


def _refuse_blanks(root: Path, images: np.ndarray, paths: Sequence[Path]) -> None:
    """Says how many of the images (N, C, H, W) have one colour alone.

    Raises:
        UserError: if all have.
    """
    blank = np.flatnonzero((images == images[:, :, :1, :1]).all(axis=(1, 2, 3)))
    if not len(blank):
        return
    pixel = ", ".join(map(str, images[blank[0], :, 0, 0]))
    line = f"{len(blank)} of {len(images)} images are blank: every pixel of {paths[blank[0]]} is {pixel}"
    if len(blank) == len(images):
        raise UserError(
            f"data.root={root}: {line}. Ink saved without its transparency looks like that, and so do values from 0 to"
            " 1 saved as whole numbers. Look at the files, and save them again"
        )
    _warn(f"{root}: {line}")


def _warn_of_doubles(root: Path, loaded: "Loaded") -> None:
    """Says where images of training or validation are among the test images that came with them."""
    from digits.data.images import image_hashes

    if loaded.test is None:
        return
    chosen_on = [part for part in (loaded.train, loaded.val) if part is not None]
    seen = {one for part in chosen_on for one in image_hashes(part.images)}
    if doubles := sum(one in seen for one in image_hashes(loaded.test.images)):
        _warn(
            f"{root}: {doubles} of its {len(loaded.test)} test images are among its training or validation images too:"
            f" python -m digits.explore data=image_folder data.root={root} names them"
        )


def _described(kind: tuple[int, int, str]) -> str:
    width, height, mode = kind
    return f"{width}×{height} {mode}"


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _warn(line: str) -> None:
    from lightning.pytorch.utilities import rank_zero_only  # here, as it brings torch

    rank_zero_only(log.warning)(line)
