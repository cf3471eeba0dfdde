"""Figures: pure functions from arrays to a matplotlib Figure. They know nothing of Lightning or of files.

Made for light pages and for print: white ground, colours that the colour-blind tell apart, and lines that
differ in dash and marker too.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from digits.analysis import interval

COLOURS = sns.color_palette("colorblind")
LOGIT_TICKS = (0.01, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
FEW_CLASSES = 20  # as many have room for large cells and a number on each bar
MOST_FILTERS, MOST_ROWS = 64, 16  # pictures of filters and of maps; filters and channels where each is a picture
MOST_COUNTS = 60  # as many have room for a number in each cell of a confusion matrix


def sample_images(images: np.ndarray, labels: Sequence[str], dataset: str) -> Figure:
    """Shows images (N, C, H, W), grey or RGB in [0, 255], in a row, each under its label."""
    figure = _figure(f"Training images of {dataset}, with their labels", 1.7 * len(images), 2.4)
    for axes, image, label in zip(_grid(figure, 1, len(images)), images, labels, strict=True):
        _show(axes, image, short(label, 16), fontsize=10 if _rotation(labels) else 12)
    return figure


def class_distribution(counts: Mapping[str, np.ndarray], class_names: Sequence[str], dataset: str) -> Figure:
    """Draws how many images each class has: a panel for each split, counts (num_classes,) by its name."""
    many = len(class_names) > FEW_CLASSES
    rows, columns = (len(counts), 1) if many else (1, len(counts))
    width = 0.19 * len(class_names) + 1.5 if many else 4.6
    figure = _figure(f"Images of each class in {dataset}", width * columns, (3.6 + _extra(class_names)) * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, (split, count), colour in zip(panels.flat, counts.items(), COLOURS, strict=False):
        bars = axes.bar(range(len(count)), count, color=colour)
        axes.set_xticks(range(len(count)), map(short, class_names), rotation=_rotation(class_names))
        if not many:
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=7, padding=2)
        axes.set(title=f"{split}: {count.sum():,} images", xlabel="class")
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.margins(x=0.01 if many else None, y=0.12)
        sns.despine(ax=axes)
    for axes in panels[:, 0]:
        axes.set_ylabel("images")
    return figure


def training_curves(history: Sequence[Mapping[str, float]], best: tuple[str, int] | None, dataset: str) -> Figure:
    """Draws loss and accuracy by epoch, and marks `best`: a metric and the epoch, from 1, that is best by it.

    `history` has a mapping for each epoch: `epoch` from 1, and what there is of `{train,val}/{loss,acc}`.
    """
    figure = _figure(f"Training on {dataset}", 11, 4.2)
    for axes, quantity, label in zip(figure.subplots(1, 2), ("loss", "acc"), ("loss", "accuracy"), strict=True):
        lines = (("train", "training (during the epoch)", "-", "o"), ("val", "validation (at its end)", "--", "s"))
        for (stage, name, dash, marker), colour in zip(lines, COLOURS, strict=False):
            key = f"{stage}/{quantity}"
            points = [(row["epoch"], row[key]) for row in history if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), dash, color=colour, marker=marker, markersize=4, label=name)
        if best:
            axes.axvline(best[1], color="0.45", linestyle=":", label=f"best by {best[0]}: epoch {best[1]}")
        axes.set(xlabel="epoch", ylabel=label, title=label.capitalize())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if quantity == "acc":
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=1))
        axes.grid(alpha=0.3)
        axes.legend()
        sns.despine(ax=axes)
    return figure


def learning_rates(rates: Sequence[float], losses: Sequence[float], chosen: float, dataset: str) -> Figure:
    """Draws the running mean of the training loss while the learning rate rises, and marks the rate that was chosen."""
    figure = _figure(f"The search for a learning rate on {dataset}", 7, 4.2)
    axes = figure.subplots()
    axes.plot(rates, losses, color=COLOURS[0])
    loss = np.interp(np.log(chosen), np.log(rates), losses)
    axes.plot(
        chosen, loss, "o", color=COLOURS[1], label=f"chosen: {chosen:g}, steepest over the rate (not its logarithm)"
    )
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss (running mean)")
    low, start = np.nanmin(losses), losses[0]
    margin = max(start - low, 0.1 * abs(start))
    axes.set_ylim(low - 0.1 * margin, start + 0.4 * margin)  # the loss that explodes at the end would flatten the rest
    axes.grid(alpha=0.3)
    axes.legend()
    sns.despine(ax=axes)
    return figure


def confusion_matrix(confusion: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """Draws counts (num_classes, num_classes), row target and column prediction, as a heat map."""
    classes = len(class_names)
    written = classes <= MOST_COUNTS  # a count in each cell; beyond, only its colour
    few = classes <= FEW_CLASSES
    cell = (0.62 if few else 0.38) if written else 0.16
    size = max(5.0, cell * classes + 1.6) + _extra(class_names)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(
        confusion,
        ax=axes,
        annot=np.where(confusion > 0, confusion.astype(str), "·") if written else None,
        annot_kws={} if few else {"fontsize": 7},
        fmt="",
        cmap="Blues",
        # The diagonal holds nearly all: without the root every confusion would look like none.
        norm=PowerNorm(0.35, vmin=0, vmax=max(1, confusion.max())),
        square=True,
        linewidths=0.5,
        linecolor="0.9",
        xticklabels=[short(name) for name in class_names],
        yticklabels=[short(name) for name in class_names],
        cbar_kws={"label": "images (colour by root scale)", "shrink": 0.8, "aspect": 20 if few else 60},
    )
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, parse_math=False, fontsize=12 if few else 18)
    axes.tick_params(axis="both", length=0, rotation=0, labelsize=10 if written else 6)
    axes.tick_params(axis="x", rotation=_rotation(class_names))
    return figure


def mistakes(
    images: np.ndarray,
    target: Sequence[str],
    pred: Sequence[str],
    probability: np.ndarray,
    index: np.ndarray,
    title: str,
) -> Figure:
    """Shows wrongly classified images (N, C, H, W), five in a row, each with truth, answer and its probability."""
    between = "\n" if _rotation([*target, *pred]) else " "  # long names take a line each
    rows = zip(target, pred, probability, index, strict=True)
    captions = [
        f"{short(t, 16)}{between}read as {short(p, 16)}\n{certainty:.1%} sure · #{i}" for t, p, certainty, i in rows
    ]
    return contact_sheet(images, captions, title)


def contact_sheet(images: np.ndarray, captions: Sequence[str], title: str) -> Figure:
    """Shows images (N, C, H, W), five in a row, each under its caption of a few short lines."""
    columns = 5
    rows = max(1, -(-len(images) // columns))
    lines = max((caption.count("\n") + 1 for caption in captions), default=2)
    figure = _figure(title, 1.9 * columns, (1.85 + 0.15 * lines) * rows + 0.5)
    for axes, image, caption in zip(_grid(figure, rows, columns), images, captions, strict=False):
        _show(axes, image, caption, fontsize=9)
    return figure


def mean_images(means: np.ndarray, class_names: Sequence[str], dataset: str) -> Figure:
    """Shows the mean image of each class, (num_classes, C, H, W) in [0, 255], under its class."""
    columns = min(10, len(means))
    rows = -(-len(means) // columns)
    figure = _figure(f"Mean training image of each class of {dataset}", 1.25 * columns + 0.2, 1.5 * rows + 0.5)
    for axes, mean, name in zip(_grid(figure, rows, columns), means / 255, class_names, strict=False):
        _show(axes, 255 * mean if len(mean) == 1 else mean, short(name, 12), fontsize=9)
    return figure


def image_map(places: np.ndarray, target: np.ndarray, class_names: Sequence[str], title: str, axis: str) -> Figure:
    """Draws images as points (N, 2) of the colour of their class (N,), with its name at the median of its points.

    `axis` says what the axes are, such as "component".
    """
    figure = _figure(title, 8, 7)
    axes = figure.subplots()
    present = np.unique(target)
    for colour, label in zip(sns.color_palette("husl", len(present)), present, strict=True):
        own = places[target == label]
        axes.scatter(own[:, 0], own[:, 1], s=6, alpha=0.6, color=colour, linewidths=0)
        text = axes.annotate(short(class_names[label], 12), np.median(own, axis=0), ha="center", va="center", zorder=3)
        text.set_bbox({"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colour, "linewidth": 2})
    axes.set(xlabel=f"{axis} 1", ylabel=f"{axis} 2")
    axes.grid(alpha=0.3)
    sns.despine(ax=axes)
    return figure


def reliability(
    bins: Mapping[str, Sequence[tuple[int, float, int]]], errors: Mapping[str, float], title: str
) -> Figure:
    """Draws by name how often answers are right that were given with about the same probability.

    Args:
        bins: for each bin with images: how many, the mean of the stated probabilities, how many are right.
        errors: the calibration error.
    """
    figure = _figure(title, 4.8 * len(bins) + 0.4, 5.6)
    panels = figure.subplots(2, len(bins), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
    for (name, rows), (shares, counts), colour in zip(bins.items(), panels.T, COLOURS, strict=False):
        images, stated, right = (np.array(column) for column in zip(*rows, strict=True))
        share = right / images
        between = np.array([interval(k, n) for n, _, k in rows]).T  # (2, bins)
        shares.plot([0, 1], [0, 1], ":", color="0.45", label="as stated")
        shares.errorbar(
            stated,
            share,
            np.abs(between - share),
            fmt="o",
            color=colour,
            capsize=3,
            label="share right (95 % interval)",
        )
        shares.set_title(f"{name}: calibration error {errors[name]:.2%}")
        shares.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        shares.legend(loc="lower right")
        bars = counts.bar(stated, images, width=0.035, color=colour)
        counts.bar_label(bars, fmt="{:,.0f}", fontsize=7, padding=2, rotation=90)
        counts.set(yscale="log", xlabel="stated probability", xlim=(-0.02, 1.05))
        counts.set_ylim(0.5, 60 * max(sum(n for n, *_ in one) for one in bins.values()))  # with room for the numbers
        counts.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        for axes in (shares, counts):
            axes.grid(alpha=0.3)
            sns.despine(ax=axes)
    panels[0, 0].set_ylabel("share of right answers")
    panels[1, 0].set_ylabel("images (log)")
    return figure


def _figure(title: str, width: float, height: float, **look: Any) -> Figure:
    """An empty figure, in inches, with its title as it stands: a dollar is no formula."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, parse_math=False, **look)
    return figure


def short(name: str, length: int = 20) -> str:
    """A class's name as matplotlib can draw it: not longer than `length`, a dollar a dollar and no formula."""
    if len(name) > length:
        tail = length // 2 - 1  # names may differ at their ends only
        name = f"{name[: length - tail - 1]}…{name[-tail:]}"
    return name.replace("$", r"\$")


def _rotation(names: Sequence[str]) -> int:
    """Degrees to turn labels by that would run into each other."""
    return 90 if any(len(name) > 3 for name in names) else 0


def _extra(names: Sequence[str]) -> float:
    """Inches that the longest label, turned, needs beyond the usual margin."""
    return 0.08 * max(0, max(len(short(name)) for name in names) - 3)


def _grid(figure: FigureBase, rows: int, columns: int) -> list[Axes]:
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in cells:
        axes.set_axis_off()
    return cells


def _show(axes: Axes, image: np.ndarray, title: str, fontsize: int) -> None:
    pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)  # (H, W) or (H, W, 3)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title, fontsize=fontsize)


def sweep(accuracies: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """Draws the accuracies of configurations, one row for each in their order: every run, and mean ± sd.

    Args:
        accuracies: by a configuration's label, accuracies in [0, 1], one per run, under `validation` and `test`;
            either may be empty.
    """
    rows = len(accuracies)
    everything = [value for splits in accuracies.values() for values in splits.values() for value in values]
    low, high = min(everything), max(everything)
    labels = [fill(label, 44, break_on_hyphens=False).replace("$", r"\$") for label in accuracies]
    lines = max(2, *(label.count("\n") + 1 for label in labels))
    figure = _figure(title, 10, rows * (0.16 * lines + 0.12) + 1.8)
    axes = figure.subplots()
    for row in range(0, rows, 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.96", zorder=0)
    written = [""] * rows
    splits = (("validation", -0.18, "s", COLOURS[1]), ("test", 0.18, "^", COLOURS[2]))
    for split, shift, marker, colour in splits:
        look = {"color": colour, "marker": marker, "linestyle": "none"}
        measured = [(row, np.array(values[split])) for row, values in enumerate(accuracies.values()) if values[split]]
        for row, values in measured:
            several = len(values) > 1
            axes.plot(values, [row + shift] * len(values), **look, markersize=4, alpha=0.45 if several else 0)
            sd = values.std(ddof=1) if several else 0
            axes.errorbar(values.mean(), row + shift, xerr=sd, **look, markersize=8, markeredgecolor="black")
            written[row] += f"{split} {values.mean():.2%}" + (f" ± {100 * sd:.2f}" if several else "") + "\n"
        if measured:
            legend = ": mean ± sd; small: each run" if any(len(values) > 1 for _, values in measured) else ""
            axes.plot([], [], **look, markersize=8, markeredgecolor="black", label=f"{split}{legend}")
    if 0 < low < 0.8 and 0.9 < high < 1:
        # A configuration that learned nothing would squeeze all others together.
        axes.set_xscale("logit")
        odds = np.log([low / (1 - low), high / (1 - high)]) + np.array([-0.3, 0.3])
        axes.set(xlim=1 / (1 + np.exp(-odds)), xlabel="accuracy (logit scale)")
        axes.set_xticks([tick for tick in LOGIT_TICKS if axes.get_xlim()[0] < tick < axes.get_xlim()[1]])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        low, high = axes.dataLim.intervalx[0], min(1, axes.dataLim.intervalx[1])  # with the error bars
        # At least one percent wide: small differences must not look large.
        margin = max(0.05 * (high - low), 0.005 - (high - low) / 2)
        axes.set(xlim=(low - margin, high + margin), xlabel="accuracy")
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1])
        axes.set_xlim(low - margin, high + margin)  # which the ticks may have widened
    axes.set_ylim(rows - 0.5, -0.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{100 * tick:.6g}%"))
    axes.set_yticks(range(rows), labels)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(rows), [text.strip() for text in written], fontsize=8)
    axes.tick_params(axis="y", length=0)
    right.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", top=rows > 12, labeltop=rows > 12)  # the other axis is far below
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    sns.despine(ax=axes, left=True)
    right.spines[:].set_visible(False)
    return figure


def explanation(
    image: np.ndarray, probabilities: Mapping[str, float], maps: Sequence[np.ndarray], title: str
) -> Figure:
    """Shows an image (C, H, W) in [0, 255], and for each class named a map (H, W) of what speaks for it and against it.

    The maps' values above 0 speak for the class, those below 0 against it.
    """
    figure = _figure(title, 2.9 * (1 + len(maps)) + 0.6, 3.4)
    seen, *cells = _grid(figure, 1, 1 + len(maps))
    _show(seen, image, "what the network saw", fontsize=10)
    grey = image.mean(axis=0)
    limit = max(float(np.abs(maps).max()), 1e-12)  # one scale, so that the classes compare
    for axes, (name, probability), weights in zip(cells, probabilities.items(), maps, strict=True):
        colours = axes.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.contour(grey, levels=[127], colors="0.2", linewidths=0.8)  # the ink's edge
        axes.set_title(f"for {short(name, 16)} ({probability:.1%})", fontsize=10)
    bar = figure.colorbar(colours, ax=cells, shrink=0.75, ticks=[-limit, limit])
    bar.ax.set_yticklabels(["against", "for"])
    return figure


def examples(rows: Sequence[tuple[str, Mapping[str, np.ndarray]]], title: str) -> Figure:
    """Shows images (C, H, W), grey or RGB in [0, 255], in rows: each row under its name, each image under its label."""
    columns = max(len(images) for _, images in rows)
    height = max(image.shape[1] / image.shape[2] for _, images in rows for image in images.values())
    figure = _figure(title, 1.25 * columns, (1.15 * height + 0.35) * len(rows) + 0.5)
    cells = _grid(figure, len(rows), columns)
    for row, (name, images) in enumerate(rows):
        for axes, (label, image) in zip(cells[row * columns :], images.items(), strict=False):
            _show(axes, image, label, fontsize=9)
        cells[row * columns].text(
            -0.08, 0.5, name, transform=cells[row * columns].transAxes, rotation=90, va="center", ha="right"
        )
    return figure


def strengths(panels: Mapping[str, Sequence[tuple[float, np.ndarray]]], names: Sequence[str], title: str) -> Figure:
    """Draws accuracies over the strength of a change, a panel for each, a line for each network by its name.

    `panels` has by the label of the axis strengths that rise, each with the accuracies (networks,).
    """
    figure = _figure(title, 3.4 * len(panels), 3.6)
    cells = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (label, points) in zip(cells, panels.items(), strict=True):
        strength, accuracies = zip(*points, strict=True)
        for i, (name, values) in enumerate(zip(names, np.transpose(accuracies), strict=True)):
            look = {"color": COLOURS[i % len(COLOURS)], "marker": "osD^v"[i % 5], "linestyle": ("-", "--", ":")[i % 3]}
            axes.plot(strength, values, **look, markersize=4, label=name)
        axes.set(xlabel=label, ylim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes.grid(alpha=0.3)
        sns.despine(ax=axes)
    cells[0].set_ylabel("accuracy")
    if len(names) > 1:
        cells[0].legend()
    return figure


def filters(weights: np.ndarray, title: str, colours: bool = False) -> Figure:
    """Shows a convolution's filters on one scale.

    A filter of one channel is a picture; of three colours it is a picture in colours, grey where it has zeros; of more
    channels it is a row with a picture for each.

    Args:
        weights: (filters, channels, height, width).
        colours: whether three channels are red, green and blue.
    """
    limit = max(float(np.abs(weights).max()), 1e-12)
    count, channels = weights.shape[:2]
    single = channels == 1 or colours
    shown = weights[:MOST_FILTERS] if single else weights[:MOST_ROWS, :MOST_ROWS]
    if single:
        pictures = [np.moveaxis(one, 0, -1) for one in shown]  # (height, width, channels)
        columns = min(8, len(pictures))
    else:
        pictures, columns = list(shown.reshape(-1, *weights.shape[2:])), shown.shape[1]
    rows = -(-len(pictures) // columns)
    kernel = f"{weights.shape[2]}×{weights.shape[3]}"
    cut = "" if shown.shape[:2] == weights.shape[:2] else f", the first {len(shown)} shown"
    what = f"{count} filters of {kernel}{cut}"
    if not single:
        first = f" (the first {shown.shape[1]})" if shown.shape[1] < channels else ""
        what += f"; a row is a filter, a column one of its {channels} input channels{first}"
    head = f"{title}\n{fill(what, max(50, 9 * columns))}"
    figure = _figure(head, max(6, 0.75 * columns + 1.2), 0.75 * rows + 1.1, fontsize=11)
    cells = _grid(figure, rows, columns)
    for axes, picture in zip(cells, pictures, strict=False):
        if colours:
            axes.imshow(0.5 + picture / (2 * limit), interpolation="nearest")
        else:
            drawn = axes.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    if not colours:
        figure.colorbar(drawn, ax=cells, shrink=0.75, aspect=40)
    return figure


def feature_maps(image: np.ndarray, maps: np.ndarray, title: str) -> Figure:
    """Shows an image (C, H, W) in [0, 255], and a layer's maps (channels, height, width) of it, on one scale."""
    shown = maps[:MOST_FILTERS]
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns)
    cut = f", the first {len(shown)} shown" if len(shown) < len(maps) else ""
    head = f"{fill(title, 12 * columns + 30)}\n{len(maps)} maps of {maps.shape[1]}×{maps.shape[2]}{cut}"
    figure = _figure(head, 1.05 * columns + 3.6, max(3.0, 1.05 * rows + 0.9), fontsize=11)
    halves = figure.add_gridspec(1, 2, width_ratios=(2.4, 1.05 * columns + 1.2))
    left, right = (figure.add_subfigure(halves[i]) for i in range(2))
    [seen] = _grid(left, 1, 1)
    _show(seen, image, "what the network saw", fontsize=10)
    cells = _grid(right, rows, columns)
    low, high = float(shown.min()), float(shown.max())
    for axes, one in zip(cells, shown, strict=False):
        drawn = axes.imshow(one, cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
    right.colorbar(drawn, ax=cells, shrink=0.75, aspect=40)
    return figure
