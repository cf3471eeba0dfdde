"""Accuracy on corrupted images, and on other writers' digits:  python -m digits.robustness ckpt_path=...

The fifteen corruptions are MNIST-C style (`digits.corruptions`); the curves over strength are this project's own
(`digits.strengths`). No image that a checkpoint was trained on is tested.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from omegaconf import DictConfig
from pydantic import NonNegativeInt, PositiveInt

from digits.atomic import write_csv
from digits.command import command
from digits.errors import UserError
from digits.validation import DataPlace, FilePath, Names, Seed, Settings, Trust, read_settings

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


class RobustnessSettings(Settings):
    """The keys of configs/robustness.yaml."""

    ckpt_path: Names | None
    others: Names
    images: PositiveInt | None
    curve_images: NonNegativeInt | None
    seed: Seed
    data: DataPlace
    device: Literal["auto", "cpu"]
    figures: bool
    trust: Trust
    log_dir: FilePath


@dataclass(frozen=True)
class Condition:
    """What the images are tested under."""

    kind: str  # CLEAN, CORRUPTED, CURVE or OTHER
    name: str  # of the corruption, the curve or the data set
    images: "TensorImages"
    # What is done to a part of them before, from images (N, C, H, W), uint8, and their index (N,) to images.
    change: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda images, index: images
    strength: float | None = None  # of a curve


@command("robustness")
def main(cfg: DictConfig, run: "Run") -> None:
    """Leaves a table, `robustness.csv`, figures and the record."""
    settings = read_settings(RobustnessSettings, cfg)

    import torch

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
    run.update(device=hardware.describe_device(torch.device(device)))

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
    from tqdm import tqdm

    right = np.zeros((len(conditions), len(answers)))
    parts = [(row, part) for row, one in enumerate(conditions) for part in _parts(one.images)]

    def prepare(place: tuple[int, slice]) -> tuple[int, np.ndarray, np.ndarray]:
        row, part = place
        one = conditions[row]
        index = one.images.index[part].numpy()
        return row, one.change(one.images.images[part].numpy(), index), one.images.target[part].numpy()

    workers = min(4, max(1, (os.cpu_count() or 2) - 1))
    total = sum(len(one.images) for one in conditions)
    with tqdm(total=total, unit=" images", leave=False, disable=None) as bar, ThreadPoolExecutor(workers) as pool:
        for row, images, target in _ahead(pool, prepare, parts, workers + 1):
            right[row] += [(logits(images).argmax(axis=1) == target).sum() for logits in answers]
            bar.set_description(conditions[row].name, refresh=False)
            bar.update(len(target))
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


def _with_mean(conditions: Sequence[Condition], accuracies: np.ndarray) -> list[tuple[Condition, np.ndarray]]:
    """Each condition with its accuracies (networks,), and the mean over the corruptions as if it were one."""
    mean = Condition(MEAN, "mean of the corruptions", conditions[0].images)
    return [*zip(conditions, accuracies, strict=True), (mean, mean_corrupted(conditions, accuracies))]


def table(conditions: Sequence[Condition], accuracies: np.ndarray, title: str) -> str:
    """The accuracies as text, each also as a share of the clean one; the curves are drawn only."""
    from digits.console import as_text, table_of

    names, clean = letters(accuracies.shape[1]), accuracies[0]
    heads = (head for name in names for head in ("accuracy" if len(names) == 1 else name, "of clean"))
    made = table_of("", ["images", *heads])
    fifteen = sum(one.kind == CORRUPTED for one in conditions)
    for kind in (CLEAN, CORRUPTED, MEAN, OTHER):
        for one, row in _with_mean(conditions, accuracies):
            if one.kind == kind:
                names_of = {MEAN: f"mean of the {fifteen}", CORRUPTED: one.name.replace("_", " ")}
                made.add_row(names_of.get(kind, one.name), f"{len(one.images):,}", *chain(*map(_shown, row, clean)))
        made.add_section()
    head = f"{title}: {len(conditions[0].images):,} test images, corrupted MNIST-C style"
    return f"{head}\n{as_text(made, width=max(100, 40 + 22 * len(names)))}"


def _shown(accuracy: float, clean: float) -> tuple[str, str]:
    return f"{accuracy:.2%}", f"{accuracy / clean:.1%}" if clean else ""


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
    rows = []
    for one, row in _with_mean(conditions, accuracies):
        for path, value, clean in zip(paths, row, accuracies[0], strict=True):
            line = {"kind": one.kind, "name": one.name, "strength": "" if one.strength is None else f"{one.strength:g}"}
            line |= {"images": str(len(one.images)), "ckpt_path": path, "accuracy": f"{value:.6f}"}
            rows.append(line | {"of_clean": f"{value / clean:.6f}" if clean else ""})
    write_csv(run.folder / "robustness.csv", rows)


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
        panels = {
            f"{name} ({CURVES[name].unit})": [(one.strength or 0.0, row) for one, row in some]
            for name, some in by_curve.items()
        }
        count = f"{len(drawn[0][0].images):,} test images of {title}"
        yield "strength_curves", figures.strengths(panels, letters(accuracies.shape[1]), f"Accuracy on {count}")


if __name__ == "__main__":
    main()
