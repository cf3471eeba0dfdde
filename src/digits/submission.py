"""Kaggle-style submissions: an id and a label for each picture of a folder, or of a CSV of file names or of pixels."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from digits.atomic import atomic_write
from digits.data.tables import ID, column, header_of, read_table
from digits.errors import UserError
from digits.pictures.answers import Answer, some

if TYPE_CHECKING:
    from digits.pictures.reader import ImageClassifier

PIXEL = re.compile(r"(pixel|px)?_?\d+(x\d+)?", re.IGNORECASE)  # pixel0 and 1x1, as Kaggle's tables of digits have them

Row = tuple[str, str, str]  # id, label, and why there is none


def table_of(paths: Sequence[Path]) -> Path | None:
    """The CSV, where that is what is to be read."""
    return paths[0] if len(paths) == 1 and paths[0].suffix.lower() == ".csv" else None


def has_pixels(table: Path) -> bool:
    """Whether a CSV holds pixels, and not file names."""
    header = header_of(table)
    return len(_pixel_columns(header)) > len(header) / 2


def _pixel_columns(header: Sequence[str]) -> list[int]:
    return [i for i, name in enumerate(header) if PIXEL.fullmatch(name)]


def classify_pixels(classifier: "ImageClassifier", table: Path) -> Iterator[Row]:
    """Reads the images whose pixels stand in a CSV, one in a row, in the form of the training images already.

    Their ids are those of a column `id`, else 1, 2, ...; a column of labels is left aside.

    Raises:
        UserError: for what is wrong in it, with the line.
    """
    import pandas as pd
    from tqdm import tqdm

    facts, header = classifier.facts, header_of(table)
    pixels, named, size, number = _pixel_columns(header), column(header, ID), facts.image_size, 0
    problem = ""
    places = [tuple(map(int, re.findall(r"\d+", header[i]))) for i in pixels]
    if len(set(places)) < len(pixels):
        problem = ", line 1: two columns have the same name: is the header missing?"
    elif places != sorted(places):
        problem = ", line 1: the pixels' columns are not in the order of their numbers, row by row. Sort them"
    elif facts.channels != 1 or len(pixels) != size**2:
        problem = (
            f", line 1: {len(pixels)} columns of pixels, and the network takes images of {size}×{size} pixels,"
            f" {facts.channels} channel(s)"
        )
    as_text = {i: str for i in range(len(header)) if i not in pixels}
    frames = [] if problem else islice(read_table(table, as_text), 1, None)
    for frame in tqdm(frames, unit="batch", leave=False, disable=None):
        cells = frame[pixels].to_numpy()
        values = pd.to_numeric(cells.ravel(), errors="coerce").reshape(-1, 1, size, size)
        whole = (values >= 0) & (values <= 255) & (values % 1 == 0)
        bad = np.argwhere(~whole.reshape(cells.shape))
        if len(bad):
            row, i = bad[0]
            problem = (
                f", line {frame.index[row]}: {header[pixels[i]]}={cells[row, i]}: give a whole number from 0 to 255"
            )
            break
        labels = classifier.probabilities(values.astype(np.uint8)).argmax(axis=1)
        ids = range(number + 1, number + 1 + len(frame)) if named is None else frame[named].str.strip()
        number += len(frame)
        yield from ((str(name), facts.class_names[label], "") for name, label in zip(ids, labels, strict=True))
    if not (number or problem):
        problem = ": it has no images. Give a line for each, below the header"
    if problem:
        raise UserError(f"{table}{problem}")


def rows_of(answers: Sequence[Answer], ids: Sequence[str]) -> Iterator[Row]:
    """An id and a label for each picture, or why there is none.

    A submission needs a label for each: what looks like none of the classes gets the least unlikely one.
    """
    for name, answer in zip(ids, answers, strict=True):
        labels = [mark.label for mark in sorted(answer.marks, key=lambda mark: mark.rejected) if not mark.separator]
        problem = answer.error or (f"{answer.path}: {answer.reading.reason}" if answer.reading and not labels else "")
        yield name, labels[0] if labels else "", problem


def doubts_of(answers: Sequence[Answer], ids: Sequence[str], noun: str) -> Iterator[str]:
    """Lines on the pictures whose label is not the plain answer."""
    readings = [(name, answer.reading) for name, answer in zip(ids, answers, strict=True) if answer.reading]
    unlike = [name for name, reading in readings if reading.marks and not reading.answers]
    noted = [name for name, reading in readings if reading.note]
    for names, what in (
        (unlike, f"no {noun} found, and the label is the least unlikely one"),
        (noted, f"more than one {noun} found, and the label is that of one"),
    ):
        if names:
            yield f"{len(names):,} of {len(answers):,} pictures: {what} ({some(names)})"


def write_submission(path: Path, header: Sequence[str], rows: Iterable[Row]) -> int:
    """Writes it atomically, once all rows are there; returns their number.

    Raises:
        UserError: if a picture has no answer, or two have the same id.
    """
    answers = list(rows)
    doubles = [name for name, times in Counter(name for name, _, _ in answers).items() if times > 1]
    failed = [(name, error) for name, _, error in answers if error]
    problem = f"two pictures have the id {doubles[0]}" if doubles else ""
    if failed:
        names = some([name for name, _ in failed])
        problem = f"{len(failed)} of {len(answers)} pictures have no answer ({names}). The first: {failed[0][1]}"
    if problem:
        raise UserError(f"submission={path}: not written, because {problem}")
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *((name, label) for name, label, _ in answers)])
    return len(answers)
