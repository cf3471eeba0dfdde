"""A user's own images: a folder for each class."""

import logging
from collections import Counter
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
        arrays, kinds = [], Counter[tuple[tuple[int, int], str]]()
        nothing_found = []
        for path in paths:
            picture = read_picture(path)
            kind = (picture.info.get(ORIGINAL_SIZE, picture.size), picture.mode)
            if self.image_size is None and form is None:
                self._check_alike(path, kind, paths[0], next(iter(kinds), kind))
            kinds[kind] += 1
            wanted = form or Form(self.image_size or picture.width, self.channels, None, None, self.light_on_dark)
            try:
                image = find_image(picture, wanted).image
            except NothingFoundError:
                nothing_found.append(path)
                image = find_image(picture, replace(wanted, fit=None, centre=None)).image
            arrays.append(image)
        if len(kinds) > 1 and form is None:
            small, large = (_describe(*choose(kinds)) for choose in (min, max))
            made = f"{arrays[0].shape[2]}×{arrays[0].shape[1]} {'grey' if self.channels == 1 else 'RGB'}"
            _warn(f"{self.root}: images of {len(kinds)} sizes and modes, from {small} to {large}; all are made {made}")
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
        entries = self.root.iterdir() if self.root.is_dir() else []
        folders = sorted(path for path in entries if path.is_dir() and not path.name.startswith("."))
        files, left_out = {}, []
        for folder in folders:
            entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
            files[folder.name] = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
            left_out += [path for path in entries if path not in files[folder.name]]
        if left_out:
            _warn(f"{self.root}: {len(left_out)} left out, no images by their names: {left_out[0]}, ...")
        problem = ""
        if not self.root.is_dir():
            problem = "no such folder. Give the one that holds a folder of images for each class"
        elif len(folders) < 2:
            found = f"only one class folder, {folders[0].name}" if folders else "no class folders"
            problem = f"{found}. It has to hold a folder of images for each of two or more classes"
        elif empty := [name for name, of_class in files.items() if not of_class]:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            problem = f"its folder {empty[0]} has no images. Put some there ({suffixes}), or remove it"
        if problem:
            raise UserError(f"data.root={self.root}: {problem}")
        return files

    def _check_alike(
        self, path: Path, kind: tuple[tuple[int, int], str], first: Path, wanted: tuple[tuple[int, int], str]
    ) -> None:
        """Images that are to stay as they are have to be alike, and square."""
        problem = ""
        if kind != wanted:
            problem = f"{first} has {_describe(*wanted)}, {path} has {_describe(*kind)}"
        elif kind[0][0] != kind[0][1]:
            problem = f"{path} has {kind[0][0]}×{kind[0][1]} pixels, no square"
        if problem:
            raise UserError(
                f"data.image_size=null: {problem}. Give data.image_size and data.channels to have all made alike"
            )


def _describe(size: tuple[int, int], mode: str) -> str:
    return f"{size[0]}×{size[1]} {mode}"


def _warn(line: str) -> None:
    from lightning.pytorch.utilities import rank_zero_only  # here, as it brings torch

    rank_zero_only(log.warning)(line)
