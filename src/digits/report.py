"""What a run says in text: the data's statistics and the evaluation, as tables for terminal and log file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.model_summary import ModelSummary
from torch import Tensor, nn

from digits.analysis import Corrected, Misclassification
from digits.calibration import FIGURES
from digits.console import as_text, table_of
from digits.data.images import pixel_statistics
from digits.data.module import DigitsDataModule
from digits.data.splits import Splits
from digits.metrics import LOSS, MetricEntry, logged

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def class_counts(splits: Splits, num_classes: int) -> dict[str, np.ndarray]:
    """Images of each class, (num_classes,), in each split that has any, by the split's name."""
    parts = {"training": splits.train, "validation": splits.val, "test": splits.test}
    return {name: np.bincount(part.target, minlength=num_classes) for name, part in parts.items() if len(part)}


def typed_images(data: DigitsDataModule) -> int:
    """How many of the training images are typed ones; a data module of the user's own has none."""
    return data.options.typed if isinstance(data, DigitsDataModule) else 0


def data_figures(data: DigitsDataModule, images: int, seed: int) -> "Iterator[tuple[str, Figure]]":
    """By name, some training images, drawn at random, with their labels; and how many images each class has."""
    from digits import figures

    train = data.splits.train
    # A generator of its own: drawing a figure must not change the run's random numbers.
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    shown, target = train.__getitems__(chosen[:images])
    labels = [data.class_names[i] for i in target]
    yield "sample_images", figures.sample_images(shown.numpy(), labels, data.title)
    counts = class_counts(data.splits, data.num_classes)
    yield "class_distribution", figures.class_distribution(counts, data.class_names, data.title)


def data_statistics(data: DigitsDataModule) -> str:
    """Sizes, mean and standard deviation of the pixels, and count and share of each class in each split."""
    counts = class_counts(data.splits, data.num_classes)
    table = table_of("class", counts, f"Images of each class in {data.title}")
    for i, name in enumerate(data.class_names):
        table.add_row(name, *(f"{count[i]:,} ({count[i] / count.sum():5.1%})" for count in counts.values()))
    table.add_section()
    table.add_row("all", *(f"{count.sum():,} (100.0%)" for count in counts.values()))
    images = data.splits.train.images
    which = "" if len(images) == len(data.splits.train) else f" of the first {len(images)} images"
    mean, std = (" ".join(f"{value:.4f}" for value in values) for values in pixel_statistics(images))
    count = typed_images(data)
    typed = f"; training: {len(images) - count:,} images and {count:,} typed ones, drawn in fonts" if count else ""
    used_mean, used_std = (" ".join(f"{value:.6g}" for value in values) for values in (data.mean, data.std))
    return (
        f"data: {data.title}, {data.num_classes} classes, {data.image_size}×{data.image_size} pixels,"
        f" {'1 channel' if data.in_channels == 1 else f'{data.in_channels} channels'};"
        f" training pixels in [0, 1]{which}: mean {mean}, sd {std}"
        f" (normalised with {used_mean}, {used_std}){typed}\n\n{as_text(table)}"
    )


def suspicious(counted: Mapping[tuple[str, str], int], splits: Sequence[str]) -> str:
    """A table of how many images look wrong, counted by reason and split; a file that cannot be read has no split."""
    names = {"train": "training", "val": "validation"}
    table = table_of("reason", [*(names.get(split, split) for split in splits), "all"], "Suspicious images")
    for reason in dict.fromkeys(reason for reason, _ in counted):
        numbers = [counted.get((reason, split), 0) for split in (*splits, "")]
        table.add_row(reason, *(f"{number:,}" for number in (*numbers[:-1], sum(numbers))))
    return as_text(table) if counted else "Suspicious images: none"


class _Shown(L.LightningModule):
    """A network with an image to send through it, as Lightning's summary wants it."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.network, self.example_input_array = network, images

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def network_summary(network: nn.Module, images: Tensor) -> str:
    """Layers with their parameters, operations and shapes, when the network gets images (B, C, H, W)."""
    total = sum(parameter.numel() for parameter in network.parameters())
    return f"{type(network).__name__}, {total:,} parameters\n{ModelSummary(_Shown(network, images), max_depth=-1)}\n"


def epoch_line(row: Mapping[str, float], max_epochs: int, entries: Iterable[MetricEntry]) -> str:
    """One line for an epoch: what there is of loss, prominent metrics and speed, and the seconds it took."""
    of = f"/{max_epochs}" if max_epochs > 0 else ""
    names = [name for name, one in logged(entries).items() if one.prominent and name in row]
    values = [f"{name} {row[name]:.4f}" for name in names]
    if "train/images_per_second" in row:
        values.append(f"{row['train/images_per_second']:,.0f} images/s")
    return "  ".join([f"epoch {row['epoch']:>2}{of}", *values, f"{row['seconds']:.1f} s"])


def evaluation(
    metrics: Mapping[str, Tensor | float],
    analysis: Misclassification,
    dataset: str,
    entries: Iterable[MetricEntry],
    corrected: Corrected | None = None,
) -> str:
    """The test's figures and the misclassification analysis; beside them, the accuracy by corrected labels."""
    measured = {one.label: one.text(float(metrics[name])) for name, one in logged(entries, ["test"]).items()}
    measured[LOSS.label] = measured.pop(LOSS.label)  # at the end
    width = max(map(len, measured))
    lines = [f"test set of {dataset}: {analysis.total:,} images, {analysis.errors:,} misclassified", ""]
    lines += [f"  {label:<{width}} {value:>8}" for label, value in measured.items()]
    lines.append("  (precision, recall and F1: weighted by class size)")
    if corrected:
        labels = f"with {corrected.labels} wrong labels of {dataset} corrected: docs/trust.md"
        lines.append(f"  ({corrected.acc:.2%} correct {labels})")
    lines.append("")

    table = table_of("class", ("images", "missed", "rate"), "Misclassified, by true class")
    for row in analysis.per_class:
        table.add_row(row["class"], f"{row['images']:,}", f"{row['errors']:,}", f"{row['rate']:.2%}")
    lines.append(as_text(table))

    rate = {row["class"]: row["rate"] for row in analysis.per_class}
    missed = ", ".join(f"{name} ({rate[name]:.2%})" for name in analysis.most_missed) or "none"
    pairs = ", ".join(f"{pair['target']} → {pair['pred']} ({pair['count']}×)" for pair in analysis.confusions) or "none"
    lines += [f"most often missed:     {missed}", f"most often confused:   {pairs}   (true → predicted)"]
    return "\n".join(lines)


def confidence(
    figures: Mapping[str, Mapping[str, float]], temperature: float | None, rejected: float | None = None
) -> str:
    """What the stated probabilities are worth.

    Args:
        figures: by the probabilities' name, those that `digits.calibration.FIGURES` names.
        temperature: that they were calibrated with.
        rejected: share of the test images that the gate takes for none of the classes; None: there is no gate.
    """
    title = f"Stated probabilities, temperature {temperature:.3f}" if temperature else "Stated probabilities"
    table = table_of("", figures, title)
    for key, label in FIGURES.items():
        form = ".2%" if key == "ece" else ".4f"
        table.add_row(label, *(f"{values[key]:{form}}" for values in figures.values()))
    explained = "NLL: the mean of -log p of the true class; Brier score: from 0 to 2; the lower, the better"
    gate = "" if rejected is None else f"\nrejected, as none of the classes: {rejected:.2%} of the test images"
    return f"{as_text(table)}  ({explained}){gate}"


def ensemble(
    members: Sequence[Mapping[str, Any]], together: Mapping[str, float], entries: Iterable[MetricEntry]
) -> str:
    """The test's figures of each member, a mapping with its `ckpt_path`, and below them those of all together."""
    figures = logged(entries, ["test"])
    table = table_of("checkpoint", (one.label for one in figures.values()), "Members and ensemble")

    def add_row(name: str, metrics: Mapping[str, Any]) -> None:
        table.add_row(name, *(one.text(metrics[figure]) for figure, one in figures.items()))

    for member in members:
        add_row(member["ckpt_path"], member)
    table.add_section()
    add_row("mean of their probabilities", together)
    return as_text(table)
