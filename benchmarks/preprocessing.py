"""What the normal form is worth: error rates on digits that were never in MNIST, dark ink on larger white pages.

    python -m benchmarks.preprocessing                              the newest training's checkpoint
    python -m benchmarks.preprocessing a/best.ckpt b/best.ckpt      mean ± sd over several

The digits are scikit-learn's `load_digits`: 1,797 of 13 writers, 8×8 pixels; each is scaled up by its own factor and
lies somewhere on a page of its own size. Where MNIST is on disk, its test images go through the same preprocessing.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits

from digits.data.dataset import Form
from digits.data.datasets import Mnist
from digits.errors import UserError
from digits.pictures.normal_form import NothingFoundError, find_image
from digits.pictures.reader import ImageClassifier, load_classifier
from digits.runs.run import newest_checkpoint


def pages(seed: int = 0) -> tuple[list[Image.Image], np.ndarray]:
    """Each digit of `load_digits` dark on a white page, and the targets (1797,)."""
    digits, generator = load_digits(), np.random.default_rng(seed)
    found = []
    for image in digits.images:  # (8, 8), from 0 to 16
        side = round(8 * generator.uniform(5, 20))
        ink = Image.fromarray((image * 255 / 16).round().astype(np.uint8))
        paper = np.full(2 * [round(side * generator.uniform(1.5, 3))], 255, np.uint8)
        top, left = generator.integers(0, len(paper) - side, size=2, endpoint=True)
        paper[top : top + side, left : left + side] -= np.asarray(ink.resize((side, side), Image.Resampling.BICUBIC))
        found.append(Image.fromarray(paper))
    return found, digits.target


def plain(picture: Image.Image, size: int) -> np.ndarray:
    """The usual recipe, up to the normalisation: grey and resized; (1, size, size)."""
    return np.asarray(picture.convert("L").resize((size, size), Image.Resampling.BILINEAR))[None]


def normal(picture: Image.Image, form: Form) -> np.ndarray:
    """(C, H, W); blank, and so an error but by chance, where no digit was found."""
    try:
        return find_image(picture, form).image
    except NothingFoundError:
        return np.zeros((form.channels, form.image_size, form.image_size), np.uint8)


def error_rate(classifier: ImageClassifier, images: np.ndarray, target: np.ndarray) -> float:
    """Of images (N, C, H, W) in the network's form."""
    parts = np.array_split(images, range(500, len(images), 500))
    preds = np.concatenate([classifier.probabilities(part).argmax(axis=1) for part in parts])
    return float((preds != target).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_path", nargs="*", help="checkpoints trained on MNIST (default: the newest training's)")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGITS_DATA", "data")), help="MNIST's root")
    arguments = parser.parse_args()
    try:
        classifiers = [load_classifier(path) for path in arguments.ckpt_path or [newest_checkpoint()]]
    except UserError as error:
        sys.exit(f"error: {error}")
    if any(classifier.form != Form(28, 1, 20, "mass", True) for classifier in classifiers):
        sys.exit("error: give checkpoints that were trained on MNIST, QMNIST or mnist5k")

    form = classifiers[0].form
    scans, target = pages()
    grey = np.stack([plain(scan, form.image_size) for scan in scans])
    rows = {
        "load_digits on pages: grey, resized": (grey, target),
        "load_digits on pages: grey, resized, inverted": (255 - grey, target),
        "load_digits on pages: normal form": (np.stack([normal(scan, form) for scan in track(scans)]), target),
    }
    if Mnist(arguments.data).folder.is_dir():
        _, test, *_ = Mnist(arguments.data).load()
        images, target = test.images.numpy(), test.target.numpy()
        start = time.perf_counter()
        again = np.stack([normal(Image.fromarray(image[0]), form) for image in track(images)])
        print(f"MNIST's {len(images):,} test images: {time.perf_counter() - start:.1f} s to the normal form")
        rows |= {"MNIST's test images": (images, target), "MNIST's test images: normal form": (again, target)}

    table = Table(title="error rate of each checkpoint")
    for column in ("images", "mean ± sd", *(str(number + 1) for number in range(len(classifiers)))):
        table.add_column(column, justify="left" if column == "images" else "right")
    for name, (images, target) in rows.items():
        rates = [100 * error_rate(classifier, images, target) for classifier in classifiers]
        sd = f" ± {statistics.stdev(rates):.2f}" if len(rates) > 1 else ""
        table.add_row(name, f"{statistics.mean(rates):.2f}{sd} %", *(f"{rate:.2f}" for rate in rates))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
