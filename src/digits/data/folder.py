"""A user's own images: a folder for each class."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from digits.data.dataset import DataSet, Form
from digits.errors import UserError
from digits.pictures.decode import IMAGE_SUFFIXES, ORIGINAL_SIZE, read_picture
from digits.pictures.normal_form import NothingFoundError, find_image

if TYPE_CHECKING:
    from digits.data.images import Loaded

log = logging.getLogger(__name__)


class ImageFolder(DataSet):
    """The images in `root/<class name>/`: classes by name, the images of each by file name.

    Each is decoded and brought to its size as `digits.predict` does it: 8 bits, on white or black where it is
    transparent, scaled with antialiasing to fit a square; what its shape leaves free repeats its edge. Hidden files and
    those without an image's suffix are left out; a warning says how many.
    """

    name = "image_folder"
    holds = "a folder of images for each class"
    own_root = True
    has_test_images = False

    @property
    def title(self) -> str:
        """The folder's name: another folder holds other images."""
        return self.root.name

    def load(self, form: Form | None = None) -> "Loaded":
        """Decodes every image.

        Args:
            form: that of another data set, into which each image is to be brought; None: this one's own.

        Raises:
            UserError: if there are no two classes, a class is empty, or an image is damaged or unlike the others.
        """
        import torch

        from digits.data.images import Loaded, TensorImages

        files = self._files()
        paths = [path for of_class in files.values() for path in of_class]
        arrays, kinds, nothing_found = [], [], []
        for path in paths:
            picture = read_picture(path)
            width, height = picture.info.get(ORIGINAL_SIZE, picture.size)
            kinds.append((width, height, picture.mode))
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
        target = np.repeat(np.arange(len(files)), [len(of_class) for of_class in files.values()])
        images = TensorImages(torch.from_numpy(np.stack(arrays)), torch.from_numpy(target))
        return Loaded(images, None, tuple(files))

    def _files(self) -> dict[str, list[Path]]:
        """The files of each class."""
        files, left_out = {}, []
        for folder in _visible(self.root) if self.root.is_dir() else []:
            if folder.is_dir():
                found = _visible(folder)
                images = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
                files[folder.name] = images
                left_out += [path for path in found if path not in images]
        if left_out:
            _warn(f"{self.root}: {len(left_out)} left out, no images by their names: {left_out[0]}, ...")
        problem = ""
        if not self.root.is_dir():
            problem = "no such folder. Give the one that holds a folder of images for each class"
        elif len(files) < 2:
            found_classes = f"only one class folder, {next(iter(files))}" if files else "no class folders"
            problem = f"{found_classes}. It has to hold a folder of images for each of two or more classes"
        elif empty := [name for name, images in files.items() if not images]:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            problem = f"its folder {empty[0]} has no images. Put some there ({suffixes}), or remove it"
        if problem:
            raise UserError(f"data.root={self.root}: {problem}")
        return files


def _described(kind: tuple[int, int, str]) -> str:
    width, height, mode = kind
    return f"{width}×{height} {mode}"


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _warn(line: str) -> None:
    from lightning.pytorch.utilities import rank_zero_only  # here, as it brings torch

    rank_zero_only(log.warning)(line)
