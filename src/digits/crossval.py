"""Cross-validation of any experiment:  python -m digits.crossval folds=5 experiment=quick

The official training images are split into stratified folds. Each fold is the test set of a run that trains on the
others, with a part of these held back for validation. Nothing is chosen on the held-out fold, and the official test
images are not read.
"""

import argparse
import datetime as dt
import secrets
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from digits.atomic import atomic_write, write_csv
from digits.console import as_text, table_of
from digits.errors import UserError, one_line_errors
from digits.metrics import logged, recorded
from digits.overrides import (
    flags_first,
    given_values,
    log_dir,
    project_file,
    quote_foreign_letters,
    quoted,
    sweep_overrides,
)
from digits.runs.run import Run, read_yaml
from digits.runs.sweeps import plan_of
from digits.validation import Settings, user_errors

TRAIN = project_file("train.py")
PREDICTIONS = ("index", "target", "probabilities")  # one row per image
ORIGIN = ("temperature", "fingerprint", "class_names")
OUT_OF_FOLD = "out_of_fold.npz"
MOST_BYTES = 4 * 2**30  # that such a file unfolds to
ITS_OWN = ("data.fold", "data.folds", "hydra.sweep.dir", "hydra.sweep.subdir")
SEARCHES = ("hparams_search", "hydra/sweeper", "hydra.mode")


class Folds(Settings):
    """Of a cross-validation: each is a training."""

    folds: Annotated[int, Field(ge=2, le=100)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="folds=5, and any overrides of train.py")
    parser.add_argument("--config-dir", metavar="FOLDER", help="a folder of configs of your own, as of train.py")
    given = parser.parse_args(flags_first(sys.argv[1:]))
    try:
        sys.exit(cross_validate(given.overrides, given.config_dir))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def cross_validate(arguments: Sequence[str], config_dir: str | None = None) -> int:
    """Trains once for each fold, in a sweep's folder, and prints the results; returns the exit code.

    `resume_sweep=<folder>` trains only what is missing there.

    Writes `folds.csv` (one row per fold), `out_of_fold.npz` (see `OutOfFold`) and what every sweep writes.

    Raises:
        UserError: for a command line that cannot work, or a fold without predictions.
    """
    if resumed := given_values(arguments, "resume_sweep"):
        folder = Path(resumed[-1])
        folds = _planned_folds(folder)
    else:
        folds, arguments = _folds([quote_foreign_letters(argument) for argument in arguments])
        folder = Path(log_dir(arguments), "crossval", f"{dt.datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(3)}")
        numbers = ",".join(map(str, range(folds)))
        own = [f"data.folds={folds}", f"data.fold={numbers}", f"hydra.sweep.dir={quoted(str(folder))}"]
        arguments = ["--multirun", *arguments, *own]
    configs = [f"--config-dir={config_dir}"] if config_dir else []
    code = subprocess.run([sys.executable, TRAIN, *configs, *arguments], check=False).returncode
    if code:
        if any(folder.glob("*/metrics.json")):
            print(f"resume:  python -m digits.crossval resume_sweep={folder}", file=sys.stderr)
        return code

    runs = [Run(folder / str(fold)) for fold in range(folds)]
    parts = [_predictions(run, folder) for run in runs]
    predictions = {name: np.concatenate([part[name] for part in parts]) for name in PREDICTIONS}
    predictions["fold"] = np.repeat(np.arange(folds), [len(part["target"]) for part in parts])
    order = predictions["index"].argsort()
    predictions = {name: values[order] for name, values in predictions.items()}
    predictions |= _origin(runs, folder)
    with atomic_write(folder / OUT_OF_FOLD) as path:
        np.savez_compressed(path, **predictions)  # type: ignore[arg-type] # its types see `allow_pickle` in any splat
    _report(runs, folder)
    right = (predictions["probabilities"].argmax(axis=1) == predictions["target"]).mean()
    print(f"out-of-fold accuracy: {right:.2%} of {len(predictions['target']):,} images\nsaved: {folder}")
    return 0


def _origin(runs: Sequence[Run], folder: Path) -> dict[str, np.ndarray]:
    """Which data set the predictions are about, and the temperature of each fold, as their checkpoints say.

    Raises:
        UserError: if the data set was not the same for all folds.
    """
    from digits.checkpoints import Checkpoint  # here, as it brings torch

    checkpoints = [Checkpoint.open(run.folder) for run in runs]
    kept = [one.settings["data"] for one in checkpoints]
    for fold, one in enumerate(kept):
        if one["fingerprint"] != kept[0]["fingerprint"]:
            raise UserError(
                f"{folder / str(fold)}: the images or labels of {one['dataset']} are not those of fold 0 any more."
                " Cross-validate again"
            )
    temperatures = [one.confidence.temperature or 1.0 for one in checkpoints]
    return {
        "temperature": np.array(temperatures),
        "fingerprint": np.array(kept[0]["fingerprint"]),
        "class_names": np.array(kept[0]["class_names"]),
    }


@dataclass(frozen=True)
class OutOfFold:
    """What the networks of a cross-validation said of the images that they were not trained on."""

    path: Path  # of its file
    fold: np.ndarray  # (N,), of each training image, in the order of the data set
    target: np.ndarray  # (N,), its class
    probabilities: np.ndarray  # (N, num_classes), softmax of the network's logits
    temperature: np.ndarray  # (folds,), of each fold's network, fitted on its validation images; 1 where it has none
    fingerprint: str  # of the data set
    class_names: tuple[str, ...]  # by the class's number

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the file in a cross-validation's folder. It is data: nothing in it is run.

        Raises:
            UserError: if there is none, it is damaged, or an older version wrote it.
        """
        path = folder / OUT_OF_FOLD
        again = f"python -m digits.crossval resume_sweep={folder} writes it again"
        if not path.is_file():
            raise UserError(f"{path}: no such file. Give the folder of a cross-validation that has ended: {again}")
        with one_line_errors(path, f"damaged, or of an older version; {again}"):
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                    raise ValueError(f"more than {MOST_BYTES:,} bytes")
            with np.load(path, allow_pickle=False) as file:
                parts = {name: file[name] for name in (*PREDICTIONS, "fold", *ORIGIN)}
            names = tuple(map(str, parts.pop("class_names")))
            shape = len(parts["target"]), len(names)
            if not (parts.pop("index") == np.arange(shape[0])).all() or parts["probabilities"].shape != shape:
                raise ValueError("not one row of probabilities for each training image")
            whole = all(np.issubdtype(parts[name].dtype, np.integer) for name in ("fold", "target"))
            limits = {"fold": len(parts["temperature"]), "target": shape[1]}
            inside = whole and all(((parts[name] >= 0) & (parts[name] < limits[name])).all() for name in limits)
            sums = parts["probabilities"].sum(axis=1)
            sure = (parts["probabilities"] >= 0).all() and np.allclose(sums, 1, atol=1e-3)
            if not (inside and sure and (parts["temperature"] > 0).all() and len(parts["fold"]) == shape[0]):
                raise ValueError("numbers out of range")
            return cls(path, fingerprint=str(parts.pop("fingerprint")), class_names=names, **parts)

    @property
    def calibrated(self) -> np.ndarray:
        """The probabilities (N, num_classes) at the temperature of each image's network."""
        powers = self.probabilities.astype(float) ** (1 / self.temperature[self.fold][:, None])
        return powers / powers.sum(axis=1, keepdims=True)


def newest_cross_validation(log_dir: Path) -> Path:
    """The folder of the newest one that has ended.

    Raises:
        UserError: if there is none.
    """
    found = sorted(Path(log_dir, "crossval").glob(f"*/{OUT_OF_FOLD}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{log_dir}: no cross-validation in it. Run python -m digits.crossval data=... first")
    return found[-1].parent


def _folds(arguments: list[str]) -> tuple[int, list[str]]:
    """The number of folds, and the overrides that are for train.py."""
    given = [argument.partition("=")[2] for argument in arguments if argument.startswith("folds=")]
    with user_errors(""):
        folds = Folds.model_validate({"folds": given[-1] if given else "5"}, strict=False).folds
    rest = [argument for argument in arguments if not argument.startswith("folds=")]
    sweeps = [str(override.input_line) for override in sweep_overrides(rest)]
    for argument in rest:
        key, problem = argument.lstrip("+").partition("=")[0], None
        if key in ITS_OWN:
            problem = f"digits.crossval sets {key} itself. Give folds=5, and overrides of train.py"
        elif key in SEARCHES:
            problem = "digits.crossval trains one experiment on each fold. Search first, then give what was found"
        elif argument in sweeps:
            problem = "digits.crossval trains one experiment on each fold, not a sweep. Give one value"
        if problem:
            raise UserError(f"{argument}: {problem}")
    return folds, rest


def _planned_folds(folder: Path) -> int:
    """The number of folds of a cross-validation that is resumed."""
    with one_line_errors(f"resume_sweep={folder}", "not a cross-validation's folder, such as logs/crossval/..."):
        data = read_yaml(plan_of(folder)[0])["data"]
        return Folds.model_validate({"folds": data["folds"]}).folds


def _predictions(run: Run, folder: Path) -> dict[str, np.ndarray]:
    """The predictions of a fold."""
    path = run.folder / "predictions.npz"
    part, cause = {}, None
    try:
        with np.load(path) as file:  # which opens no pickles
            part = {name: file[name] for name in PREDICTIONS}
    except Exception as error:  # damage can break its reader anywhere
        cause = error
    if len({len(values) for values in part.values()}) != 1 or "test/acc" not in run.figures:
        raise UserError(f"{path}: missing or damaged. Delete its folder, and give resume_sweep={folder}") from cause
    return part


def _report(runs: Sequence[Run], folder: Path) -> None:
    """Writes `folds.csv` and prints the table: one row per fold, mean and standard deviation."""
    tested = logged(recorded(runs[0].facts), ["test"])
    names = [name for name in tested if all(name in run.figures for run in runs)]
    rows: list[dict[str, Any]] = [
        {"fold": fold, "images": run.facts["split_sizes"]["test"], **{name: run.figures[name] for name in names}}
        for fold, run in enumerate(runs)
    ]
    write_csv(folder / "folds.csv", rows)
    labels = [tested[name].label for name in names]
    table = table_of("fold", ["images", *labels], f"{len(runs)}-fold cross-validation on {runs[0].dataset}")

    def figures(row: Mapping[str, float]) -> list[str]:
        return [tested[name].text(row[name]) for name in names]

    for row in rows:
        table.add_row(str(row["fold"]), f"{row['images']:,}", *figures(row))
    table.add_section()
    for label, statistic in (("mean", mean), ("sd", stdev)):
        table.add_row(label, "", *figures({name: statistic(row[name] for row in rows) for name in names}))
    print(as_text(table))


if __name__ == "__main__":
    main()
