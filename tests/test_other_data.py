"""Other writers' digits: in the checkpoint's form, and refused where they were in training or are not there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import NOWHERE  # noqa: F401 - no network
from fakes import small_digits, write_qmnist, write_usps
from sklearn.datasets import load_digits

from digits import other_data
from digits.errors import UserError
from digits.model_facts import ModelFacts
from digits.other_data import other_images

FACTS = ModelFacts("mnist", [*"0123456789"], 28, 1, [0.1307], [0.3081], 20 / 28, "mass", True)


def test_usps_in_mnists_form(tmp_path: Path) -> None:
    small = small_digits()
    write_usps(tmp_path / "root", small)
    found = other_images("usps", FACTS, tmp_path / "root")
    images = found.images.numpy()[:, 0]
    assert np.array_equal(found.target, small["test"][1])
    assert images.shape == (100, 28, 28)
    rows, columns = images.any(axis=(0, 2)).nonzero()[0], images.any(axis=(0, 1)).nonzero()[0]
    assert min(rows[0], columns[0]) > 0  # a margin on all sides, as MNIST has it
    extent = [np.ptp(np.argwhere(image)[:, axis]) + 1 for image in images for axis in (0, 1)]
    assert max(extent) == 20


def test_qmnist_without_mnists_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_digits()
    write_qmnist(tmp_path, small)
    with pytest.raises(UserError, match=r"others=qmnist: its file has 100 test images, of which the first 10,000 are"):
        other_images("qmnist", FACTS, tmp_path)
    monkeypatch.setattr(other_data, "SHARED", 30)
    found = other_images("qmnist", FACTS, tmp_path)
    assert np.array_equal(found.images.numpy()[:, 0], small["test"][0][30:])  # as they are
    assert found.index.tolist() == list(range(30, 100))


def test_scikit_learns_digits_in_mnists_form() -> None:
    found = other_images("load_digits", FACTS, Path("nowhere"))
    images = found.images.numpy()[:, 0].astype(float)
    assert np.array_equal(found.target, load_digits().target)
    assert images.shape == (1797, 28, 28)
    middle = (images.sum(axis=0) * np.arange(28)[:, None]).sum() / images.sum()
    assert middle == pytest.approx(13.7, abs=0.5)  # centred by mass


@pytest.mark.parametrize("name", ["usps", "qmnist", "mnist"])
def test_missing_files_are_one_line_with_their_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        other_images(name, replace(FACTS, dataset="emnist"), tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "facts", "message"),
    [
        ("mnist5k", FACTS, r"others=mnist5k: .* trained on mnist, whose training images include all of mnist5k"),
        ("mnist5k", replace(FACTS, dataset="mnist5k"), r"others=mnist5k: .* trained on it"),
        (
            "load_digits",
            replace(FACTS, class_names=["a", "b"]),
            r"its classes \(0, 1, .* that the checkpoint knows \(a",
        ),
        ("svhn", FACTS, r"others=svhn: there are usps, qmnist, load_digits"),
    ],
)
def test_refused(name: str, facts: ModelFacts, message: str) -> None:
    with pytest.raises(UserError, match=message):
        other_images(name, facts, Path("nowhere"))
