"""Looks at the data before training:  python -m digits.explore data=image_folder data.root=/path/to/folder"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from omegaconf import DictConfig
from pydantic import Field, NonNegativeInt

from digits.atomic import write_csv
from digits.command import command
from digits.errors import UserError
from digits.validation import FilePath, Seed, Settings, read_settings

if TYPE_CHECKING:
    from digits.data import DigitsDataModule
    from digits.runs.run import Run
    from digits.suspects import Suspect

log = logging.getLogger(__name__)
BROKEN = "broken"  # a file that cannot be decoded
NAMED = 5  # so many images a line names
SHOWN = 30  # suspicious images in the figure
COLUMNS = ("split", "index", "file", "class", "reason", "value", "twin_split", "twin_index", "twin_file", "twin_class")


class ExploreSettings(Settings):
    """The keys of configs/explore.yaml."""

    data: dict[str, Any]
    near: Annotated[float, Field(gt=0, le=1)]
    outliers: NonNegativeInt
    map: Literal["pca", "umap"]
    map_images: Annotated[int, Field(ge=2)]
    seed: Seed
    figures: bool
    log_dir: FilePath


@command("explore")
def main(cfg: DictConfig, run: "Run") -> None:
    """Leaves a folder with `suspicious.csv`, figures, and what was found in `metrics.json`."""
    settings = read_settings(ExploreSettings, cfg)
    if settings.map == "umap":
        _umap()

    from digits import build, figures, report
    from digits.suspects import suspects

    build.quiet_libraries()
    data, broken = _loaded(cfg)
    run.update(seed=settings.seed, dataset=data.dataset, data=data.name, split_sizes=data.split_sizes)
    run.save_config(cfg)
    log.info("run:    %s\n%s", run.folder, report.data_statistics(data))
    everything = Everything.of(data)
    found, places = suspects(everything.images, everything.target, settings.near, settings.outliers)
    rows = [{"file": str(path), "reason": BROKEN, "value": said} for path, said in broken.items()]
    rows += [everything.row(one) for one in found]
    write_csv(run.folder / "suspicious.csv", rows, COLUMNS)
    counts = report.class_counts(data.splits, data.num_classes)
    leaks = {reason: _leaks(everything, found, reason) for reason in ("duplicate", "near-duplicate")}
    counted = Counter((row["reason"], row.get("split", "")) for row in rows)
    run.update(
        suspicious=dict(Counter(row["reason"] for row in rows)),
        test_images_in_training={reason: len(pairs) for reason, pairs in leaks.items()},
        class_counts={name: count.tolist() for name, count in counts.items()},
        class_names=list(data.class_names),
    )
    log.info("%s", report.suspicious(counted, list(everything.sizes)))
    for line in _warnings(everything, found, leaks, broken):
        log.warning("%s", line)

    if settings.figures:
        for name, figure in report.data_figures(data, NAMED, settings.seed):
            run.save_figure(name, figure)
        run.save_figure("mean_images", figures.mean_images(everything.means(), data.class_names, data.title))
        run.save_figure("map", _map(settings, everything, places, data))
        if found:
            run.save_figure("suspicious", _sheet(everything, found, data.title))
    log.info("saved: %s", run.folder)


def _loaded(cfg: DictConfig) -> "tuple[DigitsDataModule, dict[Path, str]]":
    """The data, and which files of an image folder are left out because they cannot be decoded.

    Raises:
        UserError: for data that cannot be had, or a stream of images.
    """
    from torch.utils.data import IterableDataset

    from digits import build
    from digits.data.folder import ImageFolder

    data, broken = build.data_module(cfg), dict[Path, str]()
    data.prepare_data()
    if isinstance(kind := getattr(data, "data_set", None), ImageFolder):
        loaded = kind.load(broken=broken)
        data.use(loaded, data.cut(loaded))
    else:
        data.setup()
    if any(isinstance(getattr(part, "dataset", None), IterableDataset) for part in vars(data.splits).values()):
        problem = "a stream of images has no order to name them by. Give a data set of their own"
        raise UserError(f"data._target_={data.dataset}: {problem}")
    return data, broken


@dataclass(frozen=True)
class Everything:
    """The images of all splits, one after the other."""

    images: np.ndarray  # (N, C, H, W), uint8
    target: np.ndarray  # (N,), classes
    index: np.ndarray  # (N,), where each image stands in its data set's own order
    files: np.ndarray  # (N,), names of their files, empty where there are none
    sizes: dict[str, int]  # images of each split, by its name, in their order
    class_names: tuple[str, ...]  # by the class's number

    @classmethod
    def of(cls, data: "DigitsDataModule") -> "Everything":
        images, target, index, files, sizes = [], [], [], [], {}
        for name, part in vars(data.splits).items():
            own = np.flatnonzero(part.index.numpy() >= 0)  # not those that were typed
            if not len(own):
                continue
            pixels, classes = part.__getitems__(own)
            images.append(pixels.numpy())
            target.append(classes.numpy())
            index.append(part.index.numpy()[own])
            files.append(np.full(len(own), "") if part.files is None else part.files[own])
            sizes[name] = len(own)
        joined = [np.concatenate(parts) for parts in (images, target, index, files)]
        return cls(joined[0], joined[1], joined[2], joined[3], sizes, data.class_names)

    @property
    def split(self) -> np.ndarray:
        """The name of each image's split, (N,)."""
        return np.repeat(list(self.sizes), list(self.sizes.values()))

    def place(self, position: int) -> dict[str, Any]:
        split = str(self.split[position])
        label = self.class_names[self.target[position]]
        return {"split": split, "index": int(self.index[position]), "file": str(self.files[position]), "class": label}

    def row(self, one: "Suspect") -> dict[str, Any]:
        """A line of `suspicious.csv`."""
        row = {**self.place(one.position), "reason": one.reason}
        row["value"] = "" if one.value is None else f"{one.value:.4g}"
        twin = {} if one.twin is None else self.place(one.twin)
        return row | {f"twin_{name}": value for name, value in twin.items()}

    def named(self, position: int) -> str:
        place = self.place(position)
        return place["file"] or f"{place['split']} #{place['index']}"

    def means(self) -> np.ndarray:
        """The mean training image of each class, (num_classes, C, H, W); black for a class without any."""
        count = self.sizes["train"]
        images, target = self.images[:count], self.target[:count]
        means = np.zeros((len(self.class_names), *images.shape[1:]))
        for label in np.unique(target):
            means[label] = images[target == label].mean(axis=0)
        return means


def _leaks(everything: Everything, found: "Sequence[Suspect]", reason: str) -> "list[Suspect]":
    """Duplicates, exact or near, of which one is a test image and the other was there to train or choose on."""
    split = everything.split
    pairs = [one for one in found if one.reason == reason and one.twin is not None]
    return [one for one in pairs if (split[one.position] == "test") != (split[one.twin] == "test")]


def _warnings(
    everything: Everything, found: "Sequence[Suspect]", leaks: "dict[str, list[Suspect]]", broken: dict[Path, str]
) -> Iterator[str]:
    target, pairs = everything.target, [one for one in found if one.twin is not None and one.reason == "duplicate"]
    torn = [one for one in pairs if target[one.position] != target[one.twin]]
    for what, some in (
        ("test images that are training or validation images too", leaks["duplicate"]),
        ("test images that are nearly training or validation images too", leaks["near-duplicate"]),
        ("equal images with different labels", torn),
    ):
        if some:
            names = [f"{everything.named(one.position)} = {everything.named(one.twin or 0)}" for one in some]
            yield f"{what}: {len(some)} ({_some(names)})"
    if broken:
        yield f"files that cannot be read: {len(broken)} ({_some([*broken.values()])})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ... (all in suspicious.csv)" if len(names) > NAMED else "")


def _umap() -> Any:
    try:
        import umap
    except ImportError:
        raise UserError("map=umap: umap-learn is not installed. Run uv sync --extra umap, or give map=pca") from None
    return umap


def _map(settings: ExploreSettings, everything: Everything, components: np.ndarray, data: "DigitsDataModule") -> Any:
    """The map of the images: their first two principal components, or what UMAP makes of all components."""
    from digits import figures

    chosen = np.random.default_rng(settings.seed).permutation(len(everything.target))[: settings.map_images]
    places, how, axis = components[chosen][:, :2], "principal components", "component"
    if settings.map == "umap":
        places = _umap().UMAP(random_state=settings.seed, n_jobs=1).fit_transform(components[chosen])
        how, axis = "UMAP", "UMAP"
    title = f"{len(chosen):,} images of {data.title}, by {how} of their pixels"
    return figures.image_map(places, everything.target[chosen], everything.class_names, title, axis)


def _sheet(everything: Everything, found: "Sequence[Suspect]", title: str) -> Any:
    """The first images of each reason, as many of each as there is room for."""
    from digits import figures
    from digits.figures import short
    from digits.suspects import REASONS

    by_reason = [[one for one in found if one.reason == reason] for reason in REASONS]
    shown = sorted([one for rank in zip_longest(*by_reason) for one in rank if one][:SHOWN], key=found.index)
    captions = []
    for one in shown:
        place = everything.place(one.position)
        name = Path(place["file"]).name or f"{place['split']} #{place['index']}"
        like = "" if one.twin is None else f"of {Path(everything.named(one.twin)).name}"
        value = f" {one.value:.3g}" if one.value is not None else ""
        captions.append(f"{short(name, 20)}: {short(place['class'], 12)}\n{one.reason}{value}\n{short(like, 24)}")
    images = everything.images[[one.position for one in shown]]
    return figures.contact_sheet(images, captions, f"Suspicious images of {title}: {len(shown)} of {len(found):,}")


if __name__ == "__main__":
    main()
