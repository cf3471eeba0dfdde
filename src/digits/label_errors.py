"""Ranks the labels that are likely to be wrong:  python -m digits.label_errors crossval=logs/crossval/..."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from omegaconf import DictConfig
from pydantic import Field, PositiveInt, model_validator

from digits.atomic import write_csv
from digits.command import command
from digits.errors import UserError
from digits.validation import FilePath, Name, Settings, Trust, read_settings

if TYPE_CHECKING:
    from digits.data import DigitsDataModule
    from digits.data.images import TensorImages
    from digits.runs.run import Run

log = logging.getLogger(__name__)
FIRST = 30  # of the ranking, among which the labels that are known to be wrong are counted


class Where(Settings):
    """The keys of configs/label_errors.yaml in `data`."""

    dataset: Name | None
    root: Name | None


class LabelErrorSettings(Settings):
    """The keys of configs/label_errors.yaml."""

    split: Literal["train", "test"] | None
    crossval: FilePath | None
    ckpt_path: FilePath | None
    data: Where
    rows: PositiveInt
    images: Annotated[int, Field(ge=1, le=500)]
    trust: Trust
    log_dir: FilePath

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        problem = ""
        if self.ckpt_path and self.crossval:
            problem = f"ckpt_path={self.ckpt_path}: give either a checkpoint or crossval={self.crossval}"
        elif self.ckpt_path and self.split == "train":
            problem = "split=train: the checkpoint has seen these images. Leave ckpt_path out, and run digits.crossval"
        elif self.split == "test" and not self.ckpt_path:
            problem = "split=test: give ckpt_path=, a checkpoint that has not seen the test images"
        if problem:
            raise ValueError(problem)
        return self


@dataclass(frozen=True)
class Judged:
    """Images with what networks that have not seen them say."""

    split: str
    images: "TensorImages"
    probabilities: np.ndarray  # (N, num_classes), calibrated where the networks are
    data: "DigitsDataModule"


@dataclass(frozen=True)
class Ranking:
    """Labels by how likely they are to be wrong, the likeliest first; all of shape (N,)."""

    order: np.ndarray  # positions of the images
    suggested: np.ndarray  # by position, the most probable class but the given one
    wrong: np.ndarray  # by position, whether cleanlab calls the label wrong


@command("label_errors")
def main(cfg: DictConfig, run: "Run") -> None:
    """Leaves a folder with `label_errors.csv`, a contact sheet, and what was found in `metrics.json`."""
    settings = read_settings(LabelErrorSettings, cfg)

    from digits import build, figures

    build.quiet_libraries()
    judged = _by_checkpoint(settings) if settings.ckpt_path else _out_of_fold(settings)
    data, target = judged.data, judged.images.target.numpy()
    ranking = rank(target, judged.probabilities)
    run.update(dataset=data.dataset, data=data.name)
    run.save_config(cfg)
    count = max(settings.rows, int(ranking.wrong.sum()))
    rows = [_row(judged, ranking, i) for i in ranking.order[:count].tolist()]
    write_csv(run.folder / "label_errors.csv", rows)
    shown = ranking.order[: settings.images]
    title = f"Labels of {data.name} ({judged.split}) most likely to be wrong, of {len(target):,}"
    captions = [_caption(_row(judged, ranking, i)) for i in shown.tolist()]
    figure = figures.contact_sheet(judged.images.images[shown].numpy(), captions, title)
    run.save_figure("label_errors", figure)
    facts: dict[str, Any] = {"split": judged.split, "images": len(target), "label_errors": int(ranking.wrong.sum())}
    log.info("%s of %s labels are called wrong by cleanlab", f"{facts['label_errors']:,}", f"{len(target):,}")
    if known := data.corrected if judged.split == "test" else {}:
        places = judged.images.index.numpy()[ranking.order].tolist()
        facts["known"] = {str(one): places.index(one) + 1 for one in known}
        among = sum(place <= FIRST for place in facts["known"].values())
        log.info("of %s labels that are known to be wrong, %s are among the first %s", len(known), among, FIRST)
    run.update(**facts)
    log.info("saved: %s", run.folder)


def rank(target: np.ndarray, probabilities: np.ndarray) -> Ranking:
    """Ranks labels by cleanlab's label quality score, the probability of the given class.

    Those called wrong are cleanlab's by confident learning (Northcutt et al., https://arxiv.org/abs/1911.00068). The
    probabilities (N, num_classes) are of networks that have not seen the images.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    probabilities = probabilities.astype(float)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "May not flag all label issues")  # of a class without images
        wrong = find_label_issues(target, probabilities, n_jobs=1)
        order = np.argsort(get_label_quality_scores(target, probabilities), kind="stable")
    others = probabilities.copy()
    others[np.arange(len(target)), target] = -1
    return Ranking(order, others.argmax(axis=1), wrong)


def _by_checkpoint(settings: LabelErrorSettings) -> Judged:
    """The test images, by a checkpoint that has not seen them."""
    from digits.checkpoints import Checkpoint
    from digits.compare import logits_of

    assert settings.ckpt_path
    checkpoint = Checkpoint.open(settings.ckpt_path, settings.trust)
    data = checkpoint.data(**dict(settings.data))
    log.info("by:     %s, which has not seen the test images of %s", checkpoint.path, data.name)
    logits = logits_of(checkpoint, data) / checkpoint.facts.temperature
    return Judged("test", data.splits.test, logits.double().softmax(dim=1).numpy(), data)


def _out_of_fold(settings: LabelErrorSettings) -> Judged:
    """The training images, each by the fold's network that has not seen it.

    Raises:
        UserError: if the data set is not that of the cross-validation.
    """
    from digits.checkpoints import Checkpoint
    from digits.crossval import OutOfFold, newest_cross_validation

    folder = settings.crossval or newest_cross_validation(settings.log_dir)
    predictions = OutOfFold.read(folder)
    checkpoint = Checkpoint.open(folder / "0", settings.trust)
    data = checkpoint.data(**dict(settings.data))
    if data.fingerprint != predictions.fingerprint:
        raise UserError(f"{predictions.path}: of other images or labels than {data.name} has now. Cross-validate again")
    log.info("by:     %s, in which each network has not seen its fold of %s", folder, data.name)
    return Judged("train", _training_images(data, predictions.target), predictions.calibrated, data)


def _training_images(data: "DigitsDataModule", target: np.ndarray) -> "TensorImages":
    """All training images in the order of the data set, put together again from the splits of a fold.

    Raises:
        UserError: if they are not those with these targets (N,).
    """
    from digits.data.images import TensorImages

    splits = data.splits
    parts = [splits.train, splits.test]
    if len(splits.train) + len(splits.test) < len(target):  # validation is cut from them too
        parts.append(splits.val)
    images = TensorImages.joined(parts)
    order = images.index.argsort(stable=True)[(images.index < 0).sum() :]  # not those that were typed
    images = images.subset(order.numpy())
    if not np.array_equal(images.target.numpy(), target):
        raise UserError(f"data.root={data.root}: its training images are not those of the cross-validation any more")
    return images


def _row(judged: Judged, ranking: Ranking, i: int) -> dict[str, Any]:
    """A line of `label_errors.csv`."""
    images, names, suggested = judged.images, judged.data.class_names, int(ranking.suggested[i])
    given = int(images.target[i])
    return {
        "split": judged.split,
        "index": int(images.index[i]),
        "file": "" if images.files is None else str(images.files[i]),
        "given": names[given],
        "suggested": names[suggested],
        "probability_given": f"{judged.probabilities[i, given]:.6f}",
        "probability_suggested": f"{judged.probabilities[i, suggested]:.6f}",
        "called_wrong": bool(ranking.wrong[i]),
    }


def _caption(row: Mapping[str, Any]) -> str:
    from digits.figures import short

    name = Path(row["file"]).name or f"#{row['index']}"
    given, suggested = (
        f"{short(row[key], 12)} {float(row[f'probability_{key}']):.1%}" for key in ("given", "suggested")
    )
    return f"{short(name, 20)}\ngiven {given}\nsuggested {suggested}"


if __name__ == "__main__":
    main()
