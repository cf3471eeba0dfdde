"""Accuracy on corrupted images, and on other writers' digits:  python -m digits.robustness ckpt_path=...

The fifteen corruptions are MNIST-C style (`digits.corruptions`); the curves over strength are this project's own
(`digits.strengths`). No image that a checkpoint was trained on is tested.
"""

import csv
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from omegaconf import DictConfig
from pydantic import BeforeValidator, Field

from digits.atomic import atomic_write
from digits.command import command
from digits.errors import UserError
from digits.validation import FilePath, Name, Settings, Trust, read_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from digits.checkpoints import Checkpoint
    from digits.data.images import TensorImages
    from digits.pictures.reader import Answers
    from digits.runs.run import Run

VALUES_AT_A_TIME = 400_000  # of pixels: 510 grey images of 28×28
IN_CACHE = 64  # images whose feature maps stay in a processor's cache: twice as fast as 500
CLEAN, CORRUPTED, CURVE, OTHER = "clean", "corruption", "curve", "other data"
MEAN = "mean"
IN_FIGURE = (CLEAN, CORRUPTED)
EXAMPLES = 3  # images of each corruption in its figure

log = logging.getLogger(__name__)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


Names = Annotated[list[Name], BeforeValidator(_as_list)]
Count = Annotated[int, Field(ge=0)]


class DataPlace(Settings):
    root: FilePath | None


class RobustnessSettings(Settings):
    """The keys of configs/robustness.yaml."""

    ckpt_path: Names | None
    others: Names
    images: Annotated[int, Field(ge=1)] | None
    curve_images: Count | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: DataPlace
    device: Literal["auto", "cpu"]
    figures: bool
    trust: Trust
    log_dir: FilePath


@dataclass(frozen=True)
class Condition:
    """What the images are tested under.

    Args:
        kind: `CLEAN`, `CORRUPTED`, `CURVE` or `OTHER`.
        name: of the corruption, the curve or the data set.
        images: that are tested.
        change: what is done to a part of them before, from images (N, C, H, W), uint8, and their index (N,) to images.
        strength: of a curve.
    """

    kind: str
    name: str
    images: "TensorImages"
    change: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda images, index: images
    strength: float | None = None


@command("robustness")
def main(cfg: DictConfig, run: "Run") -> None:
    """Leaves a table, `robustness.csv`, figures and the record."""
    settings = read_settings(RobustnessSettings, cfg)

    from digits import build, hardware
    from digits.checkpoints import open_all
    from digits.corruptions import dark_ground
    from digits.data.restore import root_of
    from digits.data.settings import TrainedData
    from digits.other_data import other_images

    build.quiet_libraries()
    hardware.plain_float32()
    checkpoints = open_all(settings.ckpt_path, str(settings.log_dir), settings.trust)
    device = hardware.device_type(settings.device)
    answers = [answers_of(one, device) for one in checkpoints]
    data = checkpoints[0].data(root=settings.data.root and str(settings.data.root))
    tested = data.splits.test
    _check_size(data.title, tested)
    kept = TrainedData.model_validate(checkpoints[0].settings["data"])
    root = settings.data.root or Path(root_of(kept, "mnist") or "data")  # where the project's data sets are
    others = {name: other_images(name, checkpoints[0].facts, root) for name in settings.others}
    run.save_config(cfg)

    paths = [str(one.path) for one in checkpoints]
    for letter, path in zip(letters(len(paths)), paths, strict=True):
        log.info("%s: %s", letter, path)
    run.update(ckpt_path=paths if len(paths) > 1 else paths[0], seed=checkpoints[0].settings["seed"])
    run.update(dataset=data.dataset, data=data.name, split_sizes=data.split_sizes)
    run.update(device=hardware.describe_device(_torch_device(device)))

    dark = dark_ground(tested.images.numpy())
    few, fewer = (drawn(tested, count, settings.seed) for count in (settings.images, settings.curve_images))
    conditions = [*corrupted(few, settings.seed, dark), *curves(fewer, settings.seed, dark)]
    conditions += [Condition(OTHER, name, images) for name, images in others.items()]
    accuracies = measured(conditions, answers)
    record(run, conditions, accuracies, paths)
    log.info("%s", table(conditions, accuracies, data.title))
    if settings.figures:
        for name, figure in drawings(conditions, accuracies, data.title):
            run.save_figure(name, figure)
    log.info("saved: %s", run.folder)


def _torch_device(kind: str) -> Any:
    import torch

    return torch.device(kind)


def _check_size(title: str, images: "TensorImages") -> None:
    from digits.corruptions import SMALLEST

    if (side := int(images.images.shape[-1])) < SMALLEST:
        raise UserError(f"{title}: its images have {side}×{side} pixels; the corruptions need {SMALLEST}×{SMALLEST}")


def answers_of(checkpoint: "Checkpoint", device: str) -> "Answers":
    """From images (N, C, H, W), uint8, to a checkpoint's logits (N, num_classes), in float32."""
    import torch

    from digits.pictures.reader import torch_classifier

    network = checkpoint.network().to(memory_format=torch.channels_last)
    logits = torch_classifier(network, checkpoint.facts, device).logits
    if device != "cpu":
        return logits
    return lambda images: np.concatenate(
        [logits(part) for part in np.split(images, range(IN_CACHE, len(images), IN_CACHE))]
    )


def drawn(images: "TensorImages", count: int | None, seed: int) -> "TensorImages":
    """So many of the images, in their order; None, or more than there are: all."""
    if count is None or count >= len(images):
        return images
    return images.subset(np.sort(np.random.default_rng(seed).choice(len(images), count, replace=False)))


def corrupted(images: "TensorImages", seed: int, dark: bool) -> Iterator[Condition]:
    """The images as they are, then under each of the fifteen corruptions."""
    from digits.corruptions import CORRUPTIONS, corrupt

    yield Condition(CLEAN, CLEAN, images)
    for name, corruption in CORRUPTIONS.items():
        yield Condition(CORRUPTED, name, images, partial(corrupt, name, corruption, seed=seed, dark=dark))


def curves(images: "TensorImages", seed: int, dark: bool) -> Iterator[Condition]:
    """The images at each strength of each curve; none of no images."""
    from digits.strengths import CURVES, changed

    for name, curve in CURVES.items():
        for strength in curve.strengths if len(images) else ():
            yield Condition(CURVE, name, images, partial(changed, name, strength, seed=seed, dark=dark), strength)


def measured(conditions: Sequence[Condition], answers: "Sequence[Answers]") -> np.ndarray:
    """The accuracy under each condition of each network: (conditions, networks).

    The next images are changed while the networks look at the last ones. A bar shows how far it is.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    right = np.zeros((len(conditions), len(answers)))
    parts = [(row, part) for row, one in enumerate(conditions) for part in _parts(one.images)]

    def prepare(place: tuple[int, slice]) -> tuple[int, np.ndarray, np.ndarray]:
        row, part = place
        one = conditions[row]
        index = one.images.index[part].numpy()
        return row, one.change(one.images.images[part].numpy(), index), one.images.target[part].numpy()

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>14}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    shown = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    workers = min(4, max(1, (os.cpu_count() or 2) - 1))
    with shown as progress, ThreadPoolExecutor(workers) as pool:
        task = progress.add_task("", total=sum(len(one.images) for one in conditions))
        for row, images, target in _ahead(pool, prepare, parts, workers + 1):
            right[row] += [(logits(images).argmax(axis=1) == target).sum() for logits in answers]
            progress.update(task, advance=len(target), description=conditions[row].name)
    return right / np.array([[len(one.images)] for one in conditions])


def _parts(images: "TensorImages") -> Iterator[slice]:
    size = max(16, VALUES_AT_A_TIME // images.images[0].numel())
    return (slice(start, start + size) for start in range(0, len(images), size))


def _ahead(pool: ThreadPoolExecutor, function: Callable, items: Iterable, many: int) -> Iterator[Any]:
    """What the function makes of each item, in their order, with so many of them in work at a time."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > many:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def letters(count: int) -> list[str]:
    """A name for each checkpoint: A, B, ...; `checkpoint` for one alone."""
    return ["checkpoint"] if count == 1 else [chr(ord("A") + i) if i < 26 else f"#{i + 1}" for i in range(count)]


def mean_corrupted(conditions: Sequence[Condition], accuracies: np.ndarray) -> np.ndarray:
    """The mean over the fifteen corruptions, of each checkpoint: (checkpoints,)."""
    return accuracies[[one.kind == CORRUPTED for one in conditions]].mean(axis=0)


def table(conditions: Sequence[Condition], accuracies: np.ndarray, title: str) -> str:
    """The accuracies as text, each also as a share of the clean one; the curves are drawn only."""
    from rich import box
    from rich.table import Table

    from digits.console import as_text

    names, clean = letters(accuracies.shape[1]), accuracies[0]
    count = len(conditions[0].images)
    made = Table("", "images", box=box.SIMPLE_HEAD)
    made.columns[1].justify = "right"
    for name in names:
        made.add_column("accuracy" if len(names) == 1 else name, justify="right")
        made.add_column("of clean", justify="right")

    def add(name: str, images: int, row: np.ndarray) -> None:
        cells = [(f"{value:.2%}", f"{value / of:.1%}" if of else "") for value, of in zip(row, clean, strict=True)]
        made.add_row(name, f"{images:,}", *(cell for pair in cells for cell in pair))

    for kind in (CLEAN, CORRUPTED, MEAN, OTHER):
        rows = [(one, row) for one, row in zip(conditions, accuracies, strict=True) if one.kind == kind]
        for one, row in rows:
            add(one.name.replace("_", " ") if kind == CORRUPTED else one.name, len(one.images), row)
        if kind == MEAN:
            fifteen = sum(one.kind == CORRUPTED for one in conditions)
            add(f"mean of the {fifteen}", count, mean_corrupted(conditions, accuracies))
        made.add_section()
    head = f"{title}: {count:,} test images, corrupted MNIST-C style"
    return f"{head}\n{as_text(made, width=max(100, 40 + 22 * len(names)))}"


def record(run: "Run", conditions: Sequence[Condition], accuracies: np.ndarray, paths: Sequence[str]) -> None:
    """Writes the figures into `metrics.json`, as eval.py does, and all of them into `robustness.csv`."""
    from digits.metrics import plain

    keys = {CLEAN: "test/acc", CORRUPTED: "corrupted/{}", OTHER: "{}/acc"}
    members = []
    for column, path in enumerate(paths):
        found = {
            keys[one.kind].format(one.name): accuracies[row, column]
            for row, one in enumerate(conditions)
            if one.kind != CURVE
        }
        found["corrupted/acc"] = mean_corrupted(conditions, accuracies)[column]
        members.append({"ckpt_path": path, **plain(found)})
    run.update(**{name: value for name, value in members[0].items() if len(members) == 1 and "/" in name})
    if len(members) > 1:
        run.update(members=members)
    with atomic_write(run.folder / "robustness.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "name", "strength", "images", "ckpt_path", "accuracy", "of_clean"])
        last = Condition(MEAN, "mean of the corruptions", conditions[0].images)
        rows = [*zip(conditions, accuracies, strict=True), (last, mean_corrupted(conditions, accuracies))]
        for one, row in rows:
            for path, value, clean in zip(paths, row, accuracies[0], strict=True):
                strength = "" if one.strength is None else f"{one.strength:g}"
                share = f"{value / clean:.6f}" if clean else ""
                writer.writerow([one.kind, one.name, strength, len(one.images), path, f"{value:.6f}", share])


def drawings(conditions: Sequence[Condition], accuracies: np.ndarray, title: str) -> "Iterator[tuple[str, Figure]]":
    """Examples of the corruptions; the curves over strength, and an example of each strength."""
    from digits import figures
    from digits.strengths import CURVES

    def example(one: Condition, count: int) -> np.ndarray:
        images, index = one.images.images[:count].numpy(), one.images.index[:count].numpy()
        return np.concatenate([*one.change(images, index)], axis=1)  # (C, count · H, W): one below the other

    shown = [(one.name.replace("_", " "), example(one, EXAMPLES)) for one in conditions if one.kind in IN_FIGURE]
    rows = [("", dict(shown[start : start + 8])) for start in range(0, len(shown), 8)]
    yield "corruptions", figures.examples(rows, f"Test images of {title}, corrupted MNIST-C style")
    drawn = [(one, row) for one, row in zip(conditions, accuracies, strict=True) if one.kind == CURVE]
    if drawn:
        by_curve = {name: [(one, row) for one, row in drawn if one.name == name] for name in CURVES}
        rows = [(name, {f"{one.strength:g}": example(one, 1) for one, _ in some}) for name, some in by_curve.items()]
        yield "strengths", figures.examples(rows, f"A test image of {title} at each strength")
        panels = {f"{name} ({CURVES[name].unit})": _points(some) for name, some in by_curve.items()}
        count = f"{len(drawn[0][0].images):,} test images of {title}"
        yield "strength_curves", figures.strengths(panels, letters(accuracies.shape[1]), f"Accuracy on {count}")


def _points(some: "Sequence[tuple[Condition, np.ndarray]]") -> list[tuple[float, np.ndarray]]:
    return [(one.strength or 0.0, row) for one, row in some]


if __name__ == "__main__":
    main()
