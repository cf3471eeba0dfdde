"""A run's `report.html`: what was trained, how good it is and where it errs, on one page that needs nothing but itself.

Data flows one way: `gather` makes plain values of a test, `render` makes the page of them. Names of classes and of
files come from outside: the template escapes all that it is given, and the page's policy forbids every request.
"""

import csv
import hashlib
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from digits.analysis import by_class, confident_mistakes, interval
from digits.calibration import FIGURES, bins_of
from digits.console import TEMPLATES, rendered
from digits.metrics import logged, recorded
from digits.pictures.encode import as_picture, data_url
from digits.runs.model_card import warnings
from digits.runs.run import Run

MOST_CLASSES = 100  # whose confusion matrix a page has room for
MOST_MISTAKES = 120  # in the list
MOST_IN_CELL, MOST_RIGHT_IN_CELL = 24, 8  # images
BYTES_OF_MISTAKES, BYTES_OF_CELLS = 300_000, 900_000  # of images, with the words around each
BYTES_AROUND_IMAGE = 250  # of words and markup, about
MOST_PIXELS = 64  # of the longer side of an image; a larger one is made smaller
Box = tuple[float, float, float, float]
WIDE: Box = (46, 12, 468, 200)  # of a chart's area: left, top, right, bottom
SQUARE: Box = (46, 12, 306, 272)


@dataclass(frozen=True)
class Answered:
    """A test's answers."""

    images: Tensor  # (N, C, H, W) in [0, 255], the test images in their order
    target: np.ndarray  # (N,) class indices
    stated: Mapping[str, np.ndarray]  # by name, probabilities (N, num_classes); the last ones are those that count
    class_names: Sequence[str]
    title: str  # of the data set, for one run
    network: str  # what was tested, in a word

    @cached_property
    def probabilities(self) -> np.ndarray:
        return [*self.stated.values()][-1]

    @cached_property
    def pred(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    @cached_property
    def confidence(self) -> np.ndarray:
        return self.probabilities.max(axis=1)


def html_report(run: Run, tested: Answered) -> str:
    """The report of a run, as HTML."""
    return render(gather(run, tested))


def gather(run: Run, tested: Answered) -> dict[str, Any]:
    """All that the page shows, as plain values by the names that the template knows."""
    facts = run.facts
    confusion = np.array(facts["confusion_matrix"])
    total, right = int(confusion.sum()), int(confusion.trace())
    history = epochs(run.folder / "metrics.csv")
    return {
        "title": f"{tested.network} on {tested.title}",
        "run": run.folder.name,
        "warnings": [line.replace("**", "").replace("`", "") for line in warnings(run)],
        "total": total,
        "errors": total - right,
        "interval": interval(right, total),
        "figures": {
            one.label: one.text(facts[name])
            for name, one in logged(recorded(facts), ["test"]).items()
            if facts.get(name) is not None
        },
        "facts": _facts(run, tested),
        "charts": [chart for quantity in ("loss", "acc") if (chart := _curves(history, quantity))],
        "history": history,
        "classes": _classes(confusion, facts["misclassification"]["per_class"]),
        "matrix": _matrix(confusion, tested) if len(confusion) <= MOST_CLASSES else None,
        "most_classes": MOST_CLASSES,
        "mistakes": _mistakes(tested),
        "calibration": [_reliability(name, one, tested.target) for name, one in tested.stated.items()],
        "confidence": facts["confidence"],
        "confidence_names": FIGURES,
        "temperature": facts["temperature"],
    }


def render(page: Mapping[str, Any]) -> str:
    """Fills the template."""
    from markupsafe import Markup  # here: not every run draws

    style, script = (Markup((TEMPLATES / f"report.{kind}").read_text(encoding="utf-8")) for kind in ("css", "js"))
    # By its hash: should a name ever get past the escaping, no script in it would run.
    only = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    filters = {"percent": _percent, "fixed": "{:.4f}".format}
    return rendered("report.html", filters, **page, style=style, script=script, script_hash=only)


def epochs(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, without what is no finite number; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if math.isfinite(value)} for row in rows]


def _facts(run: Run, tested: Answered) -> dict[str, str]:
    """What was trained and tested, by what it is; only what the record knows."""
    facts = run.facts
    sizes = facts["split_sizes"]
    parts = {"training": sizes["train"], "validation": sizes["val"], "test": sizes["test"]}
    checkpoints = facts.get("ckpt_path") or facts.get("best_checkpoint")
    found: dict[str, Any] = {
        "data set": tested.title,
        "images": ", ".join(f"{count:,} {name}" for name, count in parts.items() if count),
        "classes": len(tested.class_names),
        "network": tested.network + (f", {facts['parameters']:,} parameters" if "parameters" in facts else ""),
        "checkpoint": ", ".join(checkpoints) if isinstance(checkpoints, list) else checkpoints,
        "tested": f"the weights after epoch {facts['tested_epoch']}" if facts.get("tested_epoch") else None,
        "training": f"{facts['epochs']} epochs in {facts['train_seconds']:,.0f} s" if facts.get("epochs") else None,
        "device": ", ".join(facts[key] for key in ("device", "precision") if facts.get(key)),
        "seed": facts.get("seed"),
        "name": facts.get("name"),
        "tags": ", ".join(facts.get("tags") or []),
        "overrides": " ".join(facts.get("overrides") or []),
        "started": facts.get("started_at"),
        "commit": (facts.get("git_commit") or "")[:12] + (", with changes" if facts.get("git_dirty") else ""),
    }
    return {name: str(value) for name, value in found.items() if value is not None and value != ""}


def _classes(confusion: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The record's rows with precision, recall, F1, and the class that each is most often taken for, if any."""
    measured = by_class(confusion)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    return [
        {
            **row,
            **{name: float(values[i]) for name, values in measured.items()},
            "taken_for": (rows[int(wrong[i].argmax())]["class"], int(wrong[i].max())) if wrong[i].any() else None,
        }
        for i, row in enumerate(rows)
    ]


# Images


def _image(tested: Answered, position: int) -> dict[str, Any]:
    """An image of the test set with what was said of it."""
    picture = as_picture(tested.images[np.array([position])].numpy()[0])
    if max(picture.size) > MOST_PIXELS:
        picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    return {
        "index": position,
        "target": int(tested.target[position]),
        "pred": int(tested.pred[position]),
        "probability": float(tested.confidence[position]),
        "src": data_url(picture, "PNG"),
    }


def _within(budget: int, tested: Answered, positions: Iterable[int]) -> list[dict[str, Any]]:
    """The first images, as many as there is room for."""
    images = []
    for position in positions:
        image = _image(tested, position)
        budget -= len(image["src"]) + BYTES_AROUND_IMAGE
        if budget < 0:
            break
        images.append(image)
    return images


def _mistakes(tested: Answered) -> list[dict[str, Any]]:
    wrong = confident_mistakes(tested.probabilities, tested.target)
    return _within(BYTES_OF_MISTAKES, tested, wrong.index[:MOST_MISTAKES].tolist())


def _matrix(confusion: np.ndarray, tested: Answered) -> dict[str, Any]:
    """The confusion matrix, with images of its cells.

    Of a confusion the most confident answers are shown, of a class's right answers the least confident ones. Where
    there is no room for all, each cell gets its first one before any gets its second, frequent confusions first.
    """
    queue = []
    for target, pred in np.argwhere(confusion).tolist():
        here = np.flatnonzero((tested.target == target) & (tested.pred == pred))
        right = target == pred
        ranked = here[np.argsort((1 if right else -1) * tested.confidence[here], kind="stable")]
        most = MOST_RIGHT_IN_CELL if right else MOST_IN_CELL
        order = right, -int(confusion[target, pred])
        queue += [(rank, *order, int(position)) for rank, position in enumerate(ranked[:most])]
    shown: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for image in _within(BYTES_OF_CELLS, tested, (position for *_, position in sorted(queue))):
        shown.setdefault((image["target"], image["pred"]), []).append(image)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    tint = np.sqrt(wrong / max(1, wrong.max()))
    np.fill_diagonal(tint, confusion.diagonal() / np.maximum(1, confusion.sum(axis=1)))
    first = np.unravel_index(wrong.argmax(), wrong.shape) if wrong.any() else next(iter(sorted(shown)), (0, 0))
    return {
        "names": list(tested.class_names),
        "counts": confusion.tolist(),
        "tint": tint.round(2).tolist(),
        "cells": {key: shown[key] for key in sorted(shown, key=lambda key: (key[0] == key[1], -confusion[key], key))},
        "first": tuple(map(int, first)),
        "turned": max(map(len, tested.class_names)) > 3,
    }


# Charts: where things stand, in the units of an SVG's viewBox


def _placed(value: float, low: float, high: float, start: float, end: float) -> float:
    return round(start + (value - low) / (high - low) * (end - start), 1)


def _curves(history: Sequence[Mapping[str, float]], quantity: str) -> dict[str, Any] | None:
    """Training's and validation's line of `loss` or `acc` over the epochs; None where nothing was recorded."""
    left, top, right, bottom = WIDE
    named = {"training": f"train/{quantity}", "validation": f"val/{quantity}"}
    found = {
        name: [(row["epoch"], row[key]) for row in history if key in row and "epoch" in row]
        for name, key in named.items()
    }
    values = [value for points in found.values() for _, value in points]
    if not values:
        return None
    steps = [epoch for points in found.values() for epoch, _ in points]
    first, last = min(steps), max(max(steps), min(steps) + 1)
    ticks = MaxNLocator(5).tick_values(min(values), max(values))
    low, high = ticks[0], ticks[-1] if quantity == "loss" else min(ticks[-1], 1)
    text = _percent if quantity == "acc" else lambda value: f"{value:.4g}"
    whole = [tick for tick in MaxNLocator(8, integer=True).tick_values(first, last) if first <= tick <= last]
    x = partial(_placed, low=first, high=last, start=left + 8, end=right - 8)
    y = partial(_placed, low=low, high=high, start=bottom, end=top)
    return {
        "label": "accuracy" if quantity == "acc" else "loss",
        "x_ticks": [(x(tick), f"{tick:g}") for tick in whole],
        "y_ticks": [
            (y(tick), f"{100 * tick:.4g}%" if quantity == "acc" else f"{tick:.3g}") for tick in ticks if tick <= high
        ],
        "lines": {
            name: [(x(epoch), y(value), f"epoch {epoch:g}, {name}: {text(value)}") for epoch, value in points]
            for name, points in found.items()
            if points
        },
    }


def _reliability(name: str, probabilities: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """How often answers are right that were given with about the same probability, with Wilson's 95 % intervals."""
    left, top, right, bottom = SQUARE
    points = []
    for images, stated, correct in bins_of(probabilities, target):
        low, high = interval(correct, images)
        heights = {"y": correct / images, "low": low, "high": high}
        points.append(
            {key: _placed(value, 0, 1, bottom, top) for key, value in heights.items()}
            | {"x": _placed(stated, 0, 1, left, right), "radius": round(2 + 5 * math.sqrt(images / len(target)), 1)}
            | {"images": images, "stated": stated, "share": correct / images}
        )
    return {"name": name, "points": points}


def _percent(share: float, digits: int = 1) -> str:
    """What is not quite all or nothing is not rounded to it."""
    step = 10**-digits
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) == 100:
        return f">{100 - step:.{digits}f}%"
    return f"<{step:.{digits}f}%" if share > 0 and float(text) == 0 else f"{text}%"
