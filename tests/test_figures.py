"""The figures: what is written in them, for the usual and for the unusual case."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from digits import figures
from digits.data import DigitsDataModule

DIGITS = [str(digit) for digit in range(10)]


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_sample_images_show_each_label(sample: DigitsDataModule) -> None:
    images, target = sample.splits.train.__getitems__([0, 1, 2, 3, 4])
    figure = figures.sample_images(images.numpy(), [str(t.item()) for t in target], "mnist5k")
    assert [axes.get_title() for axes in figure.axes] == [str(t.item()) for t in target]
    assert any("mnist5k" in text for text in texts(figure))
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), images[1, 0])


def test_images_in_colour() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 28, 28), dtype=np.uint8)
    figure = figures.sample_images(images, ["red", "green"], "pictures")
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), images[1].transpose(1, 2, 0))
    figure = figures.mistakes(images, ["red"] * 2, ["green"] * 2, np.ones(2), np.arange(2), "title")
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), images[0].transpose(1, 2, 0))


def test_class_distribution_shows_each_count() -> None:
    counts = {"training": np.arange(1000, 1010), "test": np.arange(10, 20)}
    figure = figures.class_distribution(counts, DIGITS, "mnist")
    written = texts(figure)
    assert {"1,000", "1,009", "10", "19"} <= set(written)
    assert f"training: {sum(range(1000, 1010)):,} images" in written
    assert [bar.get_height() for bar in figure.axes[1].patches] == list(range(10, 20))


def test_class_distribution_of_many_classes(tmp_path: Path) -> None:
    names = [f"a rather long class name {i}" for i in range(46)] + ["$x$ and $\\frac$"]
    figure = figures.class_distribution({"training": np.full(47, 2400), "test": np.full(47, 400)}, names, "$emnist$")
    assert [axes.get_title() for axes in figure.axes] == ["training: 112,800 images", "test: 18,800 images"]
    assert figure.axes[0].get_position().y0 > figure.axes[1].get_position().y1  # one above the other
    for axes in figure.axes:
        assert [bar.get_height() for bar in axes.patches] in ([2400] * 47, [400] * 47)
        figure.savefig(tmp_path / "figure.png")
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert len(boxes) == 47
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))  # none over another


def test_training_curves_have_their_points() -> None:
    history = [
        {"epoch": 1, "train/loss": 0.9, "train/acc": 0.6},
        {"epoch": 2, "train/loss": 0.5, "train/acc": 0.8, "val/loss": 0.4, "val/acc": 0.9},
        {"epoch": 3, "train/loss": 0.3, "train/acc": 0.9, "val/loss": 0.5, "val/acc": 0.85},
    ]
    figure = figures.training_curves(history, ("val/acc", 2), "mnist5k")
    loss, accuracy = figure.axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 0.9], [2, 0.5], [3, 0.3]]
    assert loss.lines[1].get_xydata().tolist() == [[2, 0.4], [3, 0.5]]
    assert accuracy.lines[1].get_xydata().tolist() == [[2, 0.9], [3, 0.85]]
    assert any("best by val/acc: epoch 2" in text for text in texts(figure))


def test_training_curves_without_validation() -> None:
    figure = figures.training_curves([{"epoch": 1, "train/loss": 0.9, "train/acc": 0.6}], None, "mnist")
    assert len(figure.axes[0].lines) == 1


def test_learning_rates_mark_the_chosen_one() -> None:
    rates, losses = [1e-4, 1e-3, 1e-2, 1e-1], [2.3, 2.1, 1.5, 900.0]
    figure = figures.learning_rates(rates, losses, 1e-3, "mnist5k")
    [axes] = figure.axes
    curve, chosen = axes.lines
    assert curve.get_xydata().tolist() == [list(point) for point in zip(rates, losses, strict=True)]
    assert chosen.get_xydata().tolist() == [[1e-3, pytest.approx(2.1)]]
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[1] < 3
    assert any("chosen: 0.001" in text for text in texts(figure))


@pytest.mark.parametrize("classes", [2, 10, 26, 47])
def test_confusion_matrix_shows_each_count(classes: int) -> None:
    confusion = np.arange(classes * classes).reshape(classes, classes)
    names = [f"class {i}" for i in range(classes)]
    figure = figures.confusion_matrix(confusion, names, "mnist test set")
    heat_map = figure.axes[0]
    cells = [text.get_text() for text in heat_map.texts]
    assert cells == ["·", *map(str, range(1, classes * classes))]
    assert [label.get_text() for label in heat_map.get_yticklabels()] == names
    assert heat_map.get_title() == "mnist test set"
    assert (heat_map.get_xlabel(), heat_map.get_ylabel()) == ("predicted", "true")


@pytest.mark.slow
def test_confusion_matrix_of_very_many_classes_is_colour_alone() -> None:
    names = [f"{'x' * 30} {i}" for i in range(100)]
    figure = figures.confusion_matrix(np.eye(100, dtype=int), names, "$a$ and $b")
    assert not figure.axes[0].texts
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        f"{'x' * 10}…{'x' * (9 - len(f' {i}'))} {i}" for i in range(100)
    ]
    assert max(figure.get_size_inches()) < 25
    figure.draw_without_rendering()


@pytest.mark.parametrize("count", [0, 3, 7])
def test_mistakes_show_truth_answer_and_certainty(count: int, tmp_path: Path) -> None:
    images = np.zeros((count, 1, 28, 28), np.uint8)
    figure = figures.mistakes(images, ["4"] * count, ["9"] * count, np.full(count, 0.987), np.arange(count), "title")
    assert sum("4 read as 9" in text and "98.7%" in text for text in texts(figure)) == count
    figure.savefig(tmp_path / "figure.png")


def test_reliability_shows_bins_and_counts() -> None:
    bins = {"as trained": [(10, 0.5, 4), (990, 0.99, 980)], "calibrated": [(1000, 0.98, 984)]}
    figure = figures.reliability(bins, {"as trained": 0.0102, "calibrated": 0.004}, "mnist test set, 1,000 images")
    written = texts(figure)
    assert {"10", "990", "1,000", "as trained: calibration error 1.02%"} <= set(written)
    points = next(line for line in figure.axes[0].lines if line.get_marker() == "o").get_xydata()
    np.testing.assert_allclose(points, [[0.5, 0.4], [0.99, 980 / 990]])
