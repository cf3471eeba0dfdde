"""Digits by other writers and from other scanners, brought into the form of a checkpoint's images."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from digits.data.dataset import Form
from digits.data.datasets import DIGITS, named
from digits.errors import UserError
from digits.pictures.normal_form import NothingFoundError, find_image

if TYPE_CHECKING:
    from digits.data.images import TensorImages
    from digits.model_facts import ModelFacts

SHARED = 10_000  # of QMNIST's test images: they are MNIST's
OF_8 = Form(8, 1, None, None, light_on_dark=True)  # of scikit-learn's digits
SAMPLE = "load_digits"


def other_images(name: str, facts: "ModelFacts", root: Path) -> "TensorImages":
    """The images of one of `OTHERS`, none of which the checkpoint was trained on, in the form of its own.

    Raises:
        UserError: if they were in training, their classes are others, or their files cannot be had.
    """
    problem = ""
    if name not in OTHERS:
        problem = f"there are {', '.join(OTHERS)}"
    elif name == facts.dataset or (name != SAMPLE and facts.dataset in named(name).within):
        which = "it" if name == facts.dataset else f"{facts.dataset}, whose training images include all of {name}"
        problem = f"no other data for this checkpoint, which was trained on {which}. Leave it out"
    elif facts.class_names != list(DIGITS):
        have, want = (textwrap.shorten(", ".join(names), 100) for names in (DIGITS, facts.class_names))
        problem = f"its classes ({have}) are not those that the checkpoint knows ({want}). Leave it out"
    if problem:
        raise UserError(f"others={name}: {problem}")
    images, form = OTHERS[name](name, root)
    return images if form == facts.form else _in_form(images, facts.form)


def _tested(name: str, root: Path) -> "tuple[TensorImages, Form]":
    """The official test images of a data set of the project's; all images of one that has none."""
    data_set = named(name)(root)
    data_set.fetch()
    loaded = data_set.load()
    images = loaded.train if loaded.test is None else loaded.test
    side = int(images.images.shape[-1])
    fit = None if data_set.fit is None else round(data_set.fit * side)
    return images, Form(side, 1, fit, data_set.centre, data_set.light_on_dark)


def _not_of_mnist(name: str, root: Path) -> "tuple[TensorImages, Form]":
    """QMNIST's last 50,000 test images, which MNIST never had. Source: https://arxiv.org/abs/1905.10498."""
    images, form = _tested(name, root)
    if len(images) <= SHARED:
        raise UserError(
            f"others={name}: its file has {len(images):,} test images, of which the first {SHARED:,} are MNIST's."
            " Take the complete one"
        )
    return images.subset(np.arange(SHARED, len(images))), form


def _sample(name: str, root: Path) -> "tuple[TensorImages, Form]":
    """scikit-learn's 1,797 digits of 8×8 pixels, from 0 to 16, by 13 writers on forms in Turkey.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """
    import torch
    from sklearn.datasets import load_digits

    from digits.data.images import TensorImages

    digits = load_digits()
    pixels = torch.from_numpy((digits.images * (255 / 16)).round().astype(np.uint8))[:, None]  # (N, 1, 8, 8)
    return TensorImages(pixels, torch.from_numpy(digits.target).long()), OF_8


OTHERS: "dict[str, Callable[[str, Path], tuple[TensorImages, Form]]]" = {
    "usps": _tested,
    "qmnist": _not_of_mnist,
    SAMPLE: _sample,
    "mnist": _tested,
    "mnist5k": _tested,
}


def _in_form(images: "TensorImages", form: Form) -> "TensorImages":
    """Each image as `digits.predict` would bring it into the form; a blank one stays blank."""
    import torch

    from digits.data.images import TensorImages

    found = np.zeros((len(images), form.channels, form.image_size, form.image_size), np.uint8)
    for place, image in zip(found, images.images[:, 0].numpy(), strict=True):
        try:
            place[:] = find_image(Image.fromarray(image), form).image
        except NothingFoundError:
            continue
    return TensorImages(torch.from_numpy(found), images.target, images.index)
