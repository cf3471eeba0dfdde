"""Figures: pure functions from arrays to a matplotlib Figure. They know nothing of Lightning or of files.

Made for light pages and for print: white ground, colours that the colour-blind tell apart, and lines that
differ in dash and marker too.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

COLOURS = sns.color_palette("colorblind")


def sample_images(images: np.ndarray, labels: Sequence[str], dataset: str) -> Figure:
    """Shows images (N, H, W) in [0, 255] in a row, each under its label."""
    figure = Figure(figsize=(1.7 * len(images), 2.4), layout="constrained")
    figure.suptitle(f"Training images of {dataset}, with their labels")
    for axes, image, label in zip(_grid(figure, 1, len(images)), images, labels, strict=True):
        _show(axes, image, label)
    return figure


def class_distribution(counts: Mapping[str, np.ndarray], class_names: Sequence[str], dataset: str) -> Figure:
    """Draws how many images each class has: a panel for each split, counts (num_classes,) by its name."""
    figure = Figure(figsize=(4.6 * len(counts), 3.6), layout="constrained")
    figure.suptitle(f"Images of each class in {dataset}")
    panels = figure.subplots(1, len(counts), squeeze=False)[0]
    for axes, (split, count), colour in zip(panels, counts.items(), COLOURS, strict=False):
        bars = axes.bar(range(len(count)), count, color=colour, tick_label=class_names)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=7, padding=2)
        axes.set(title=f"{split}: {count.sum():,} images", xlabel="class")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.margins(y=0.12)
        sns.despine(ax=axes)
    panels[0].set_ylabel("images")
    return figure


def training_curves(history: Sequence[Mapping[str, float]], best_epoch: int | None, dataset: str) -> Figure:
    """Draws loss and accuracy by epoch.

    Args:
        history: a mapping for each epoch: `epoch` from 1, and what there is of `{train,val}/{loss,acc}`.
        best_epoch: the epoch, from 1, with the highest val/acc; marked if given.
        dataset: for the title.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    figure.suptitle(f"Training on {dataset}")
    for axes, quantity, label in zip(figure.subplots(1, 2), ("loss", "acc"), ("loss", "accuracy"), strict=True):
        lines = (("train", "training (during the epoch)", "-", "o"), ("val", "validation (at its end)", "--", "s"))
        for (stage, name, dash, marker), colour in zip(lines, COLOURS, strict=False):
            key = f"{stage}/{quantity}"
            points = [(row["epoch"], row[key]) for row in history if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), dash, color=colour, marker=marker, markersize=4, label=name)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.45", linestyle=":", label=f"best by val/acc: epoch {best_epoch}")
        axes.set(xlabel="epoch", ylabel=label, title=label.capitalize())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if quantity == "acc":
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=1))
        axes.grid(alpha=0.3)
        axes.legend()
        sns.despine(ax=axes)
    return figure


def confusion_matrix(confusion: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """Draws counts (num_classes, num_classes), row target and column prediction, as a heat map."""
    size = max(5.0, 0.62 * len(class_names) + 1.6)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(
        confusion,
        ax=axes,
        annot=np.where(confusion > 0, confusion.astype(str), "·"),
        fmt="",
        cmap="Blues",
        # The diagonal holds nearly all: without the root every confusion would look like none.
        norm=PowerNorm(0.35, vmin=0, vmax=max(1, confusion.max())),
        square=True,
        linewidths=0.5,
        linecolor="0.9",
        xticklabels=class_names,
        yticklabels=class_names,
        cbar_kws={"label": "images (colour by root scale)", "shrink": 0.8},
    )
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.tick_params(axis="both", length=0, rotation=0)
    return figure


def mistakes(
    images: np.ndarray,
    target: Sequence[str],
    pred: Sequence[str],
    probability: np.ndarray,
    index: np.ndarray,
    title: str,
) -> Figure:
    """Shows wrongly classified images (N, H, W), five in a row, each with truth, answer and its probability."""
    columns = 5
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(1.9 * columns, 2.15 * rows + 0.5), layout="constrained")
    figure.suptitle(title)
    cells = _grid(figure, rows, columns)
    for axes, image, t, p, certainty, i in zip(cells, images, target, pred, probability, index, strict=False):
        _show(axes, image, f"{t} read as {p}\n{certainty:.1%} sure · #{i}", fontsize=9)
    return figure


def _grid(figure: Figure, rows: int, columns: int) -> list[Axes]:
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in cells:
        axes.set_axis_off()
    return cells


def _show(axes: Axes, image: np.ndarray, title: str, **font) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title, **font)
