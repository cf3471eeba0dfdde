"""Cross-validation of any experiment:  python -m digits.crossval folds=5 experiment=quick

The official training images are split into stratified folds. Each fold is the test set of a run that trains on the
others, with a part of these held back for validation. Nothing is chosen on the held-out fold, and the official test
images are not read.
"""

import argparse
import csv
import datetime as dt
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table

from digits.atomic import atomic_write
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

    Writes `folds.csv` (one row per fold), `out_of_fold.npz` (`index` into the training images, `fold`, `target` and
    `probabilities` (N, num_classes), in the order of the images) and what every sweep writes.

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
    with atomic_write(folder / "out_of_fold.npz") as path:
        np.savez_compressed(path, **predictions)  # type: ignore[arg-type] # its types see `allow_pickle` in any splat
    _report(runs, folder)
    right = (predictions["probabilities"].argmax(axis=1) == predictions["target"]).mean()
    print(f"out-of-fold accuracy: {right:.2%} of {len(predictions['target']):,} images\nsaved: {folder}")
    return 0


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
    with atomic_write(folder / "folds.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)

    table = Table("fold", box=box.SIMPLE_HEAD, title=f"{len(runs)}-fold cross-validation on {runs[0].dataset}")
    for column in ("images", *(tested[name].label for name in names)):
        table.add_column(column, justify="right")

    def figures(row: Mapping[str, float]) -> list[str]:
        return [tested[name].text(row[name]) for name in names]

    for row in rows:
        table.add_row(str(row["fold"]), f"{row['images']:,}", *figures(row))
    table.add_section()
    for label, statistic in (("mean", mean), ("sd", stdev)):
        table.add_row(label, "", *figures({name: statistic(row[name] for row in rows) for name in names}))
    Console().print(table, highlight=False)


if __name__ == "__main__":
    main()
