"""Cross-validation of any experiment:  python -m digits.crossval folds=5 experiment=quick

The official training images are cut into stratified folds. Each fold is the test set of a training on the others, of
which some are held back for validation: the held-out fold chooses nothing, and the official test images are not read.
"""

import argparse
import csv
import datetime as dt
import secrets
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from digits.atomic import atomic_write
from digits.errors import UserError
from digits.overrides import log_dir, project_file, quoted
from digits.runs.run import Run

TRAIN = project_file("train.py")
MOST_FOLDS = 100  # each is a training
PREDICTIONS = ("index", "target", "probabilities")  # of an image each
METRICS = ("test/acc", "test/precision", "test/recall", "test/f1", "test/loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value", help="folds=5, and any overrides of train.py")
    try:
        sys.exit(cross_validate(parser.parse_args().words))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def cross_validate(words: list[str]) -> int:
    """Trains once for each fold, in a sweep's folder, and says what came out; returns the exit code.

    `resume_sweep=<folder>` trains only what is missing there.

    Writes `folds.csv` (a row a fold), `out_of_fold.npz` (`index` into the training images, `fold`, `target` and
    `probabilities` (N, num_classes), in the order of the images) and what every sweep leaves behind.

    Raises:
        UserError: for a command line that cannot work.
    """
    resumed = [word.partition("=")[2] for word in words if word.startswith("resume_sweep=")]
    if resumed:
        folder = Path(resumed[0])
        folds = _folds_of(folder)
    else:
        folds, words = _folds(words)
        folder = Path(log_dir(words), "crossval", f"{dt.datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(3)}")
        numbers = ",".join(map(str, range(folds)))
        own = [f"data.folds={folds}", f"data.fold={numbers}", f"hydra.sweep.dir={quoted(str(folder))}"]
        words = ["--multirun", *words, *own]
    code = subprocess.run([sys.executable, TRAIN, *words], check=False).returncode
    if code:
        if any(folder.glob("*/metrics.json")):
            print(f"what is missing:  python -m digits.crossval resume_sweep={folder}", file=sys.stderr)
        return code

    records = [Run(folder / str(fold)).facts for fold in range(folds)]
    if not all(name in record for record in records for name in METRICS):
        raise UserError(f"{folder}: some folds were not tested, so there is nothing to say about them")
    predictions = _out_of_fold(folder, folds)
    with atomic_write(folder / "out_of_fold.npz") as part:
        np.savez_compressed(part, **predictions)  # type: ignore[arg-type] # its types see `allow_pickle` in any splat
    rows = [
        {"fold": fold, "images": record["split_sizes"]["test"], **{name: record[name] for name in METRICS}}
        for fold, record in enumerate(records)
    ]
    with atomic_write(folder / "folds.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)
    right = (predictions["probabilities"].argmax(axis=1) == predictions["target"]).mean()
    Console().print(_table(rows, records[0]["dataset"]), highlight=False)
    print(f"out-of-fold accuracy: {right:.2%} of {len(predictions['target']):,} images\nsaved: {folder}")
    return 0


def _folds(words: list[str]) -> tuple[int, list[str]]:
    """The number of folds, and the words that are for train.py."""
    folds, rest = "5", []
    for word in words:
        key, _, value = word.partition("=")
        if key == "folds":
            folds = value
        elif key in ("data.fold", "data.folds", "hydra.sweep.dir", "hydra.sweep.subdir"):
            raise UserError(f"{word}: digits.crossval sets {key} itself. Give folds=5, and what train.py takes")
        elif key in ("hparams_search", "hydra/sweeper", "hydra.mode"):
            raise UserError(
                f"{word}: digits.crossval trains one experiment on each fold. Search first, then give what was found"
            )
        else:
            rest.append(word)
    if not folds.isdecimal() or not 2 <= int(folds) <= MOST_FOLDS:
        raise UserError(f"folds={folds}: give a whole number from 2 to {MOST_FOLDS}")
    try:
        overrides = OverridesParser.create().parse_overrides(rest)
    except OverrideParseException as error:
        raise UserError(" ".join(str(error).split())) from error
    for override in overrides:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: digits.crossval trains one experiment on each fold, not a sweep")
    return int(folds), rest


def _folds_of(folder: Path) -> int:
    """The number of folds of a cross-validation that is to go on."""
    folds = OmegaConf.select(Run(folder / "0").config, "data.folds")
    if not isinstance(folds, int) or not 2 <= folds <= MOST_FOLDS:
        raise UserError(f"resume_sweep={folder}: not the folder of a cross-validation, logs/crossval/...")
    return folds


def _out_of_fold(folder: Path, folds: int) -> dict[str, np.ndarray]:
    """The predictions of all folds, in the order of the images.

    Raises:
        UserError: naming a file that is missing or damaged.
    """
    parts = []
    for path in (folder / str(fold) / "predictions.npz" for fold in range(folds)):
        try:
            with np.load(path) as file:  # which opens no pickles
                parts.append({name: file[name] for name in PREDICTIONS})
            if len({len(values) for values in parts[-1].values()}) > 1:
                raise ValueError("of different lengths")
        except Exception as error:  # damage can break its reader anywhere
            raise UserError(f"{path}: missing or damaged. Delete its folder, and give resume_sweep={folder}") from error
    together = {name: np.concatenate([part[name] for part in parts]) for name in PREDICTIONS}
    together["fold"] = np.repeat(np.arange(folds), [len(part["target"]) for part in parts])
    order = together["index"].argsort()
    return {name: values[order] for name, values in together.items()}


def _table(rows: list[dict], dataset: str) -> Table:
    table = Table("fold", box=box.SIMPLE_HEAD, title=f"{len(rows)}-fold cross-validation on {dataset}")
    for column in ("images", *(name.removeprefix("test/") for name in METRICS)):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(str(row["fold"]), f"{row['images']:,}", *(_figure(name, row[name]) for name in METRICS))
    table.add_section()
    columns = [[row[name] for row in rows] for name in METRICS]
    table.add_row("mean", "", *(_figure(name, mean(column)) for name, column in zip(METRICS, columns, strict=True)))
    table.add_row("sd", "", *(_figure(name, stdev(column)) for name, column in zip(METRICS, columns, strict=True)))
    return table


def _figure(name: str, value: float) -> str:
    return f"{value:.4f}" if name == "test/loss" else f"{value:.2%}"


if __name__ == "__main__":
    main()
