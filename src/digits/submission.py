"""Kaggle-style submissions: an id and a label for each picture of a folder, or of a CSV of file names or of pixels."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from digits.atomic import atomic_write
from digits.data.tables import FILE, column, file_in, looks_like_data, read_rows
from digits.errors import UserError
from digits.pictures.answers import Answer

if TYPE_CHECKING:
    from digits.pictures.reader import ImageClassifier

ID = ("id", "imageid", "image_id")
PIXEL = re.compile(r"(pixel|px)?_?\d+(x\d+)?", re.IGNORECASE)  # pixel0 and 1x1, as Kaggle's tables of digits have them
BATCH = 500

Row = tuple[str, str]  # id and label


def table_of(paths: Sequence[Path]) -> Path | None:
    """The CSV, where that is what is to be read."""
    return paths[0] if len(paths) == 1 and paths[0].suffix.lower() == ".csv" else None


def has_pixels(table: Path) -> bool:
    """Whether a CSV holds pixels, and not file names."""
    _, header = next(read_rows(table))
    return len(_pixel_columns(header)) > len(header) / 2


def _pixel_columns(header: Sequence[str]) -> list[int]:
    return [i for i, name in enumerate(header) if PIXEL.fullmatch(name)]


def listed_files(table: Path) -> tuple[list[str], list[Path]]:
    """The ids and the files that a CSV lists, in its order; where it has no column of ids, they are its file names.

    Raises:
        UserError: for what is wrong in it, with the line.
    """
    rows = read_rows(table)
    _, header = next(rows)
    file = column(header, FILE) if len(header) > 1 else 0
    if file is None or looks_like_data(header):
        raise UserError(f"{table}, line 1: no header with a column of file names. Call it file")
    named = column(header, ID)
    ids, paths = [], []
    for line, cells in rows:
        try:
            paths.append(file_in(table.parent, cells[file]))
        except ValueError as error:
            raise UserError(f"{table}, line {line}: {error}") from error
        ids.append(cells[file if named is None else named])
    if not paths:
        raise UserError(f"{table}: it lists no pictures. Give a line for each, below the header")
    return ids, paths


def classify_pixels(classifier: "ImageClassifier", table: Path) -> Iterator[Row]:
    """Reads the images whose pixels stand in a CSV, one in a row, in the form of the training images already.

    Their ids are those of a column `id`, else 1, 2, ...; a column of labels is left aside.

    Raises:
        UserError: for what is wrong in it, with the line.
    """
    from tqdm import tqdm

    facts, (_, header) = classifier.facts, next(read_rows(table))
    pixels, size = _pixel_columns(header), facts.image_size
    problem = ""
    if len({header[i] for i in pixels}) < len(pixels):
        problem = "two columns have the same name: is the header missing?"
    elif facts.channels != 1 or len(pixels) != size**2:
        problem = (
            f"{len(pixels)} columns of pixels, and the network takes images of {size}×{size} pixels,"
            f" {facts.channels} channel(s)"
        )
    if problem:
        raise UserError(f"{table}, line 1: {problem}")
    rows = iter(tqdm(_images(table, pixels), unit="image", leave=False, disable=None))
    while batch := list(islice(rows, BATCH)):
        images = np.frombuffer(bytearray().join(image for _, image in batch), np.uint8).reshape(-1, 1, size, size)
        labels = classifier.probabilities(images).argmax(axis=1)
        yield from ((name, facts.class_names[label]) for (name, _), label in zip(batch, labels, strict=True))


def _images(table: Path, pixels: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """The id and the pixels of each row."""
    rows = read_rows(table)
    _, header = next(rows)
    named, number = column(header, ID), 0
    for number, (line, cells) in enumerate(rows, start=1):
        try:
            image = bytes(int(cells[i]) for i in pixels)
        except ValueError as error:
            bad = [i for i in pixels if not (cells[i].isdecimal() and int(cells[i]) < 256)]
            name, cell = header[bad[0]], cells[bad[0]]
            raise UserError(f"{table}, line {line}: {name}={cell}: give a whole number from 0 to 255") from error
        yield str(number) if named is None else cells[named], image
    if not number:
        raise UserError(f"{table}: it has no images. Give a line for each, below the header")


def rows_of(answers: Sequence[Answer], ids: Sequence[str], submission: Path) -> list[Row]:
    """An id and a label for each picture.

    Raises:
        UserError: if a picture has no answer.
    """
    failed = [(name, answer.error) for name, answer in zip(ids, answers, strict=True) if answer.error]
    if failed:
        names = ", ".join(name for name, _ in failed[:5]) + (", ..." if len(failed) > 5 else "")
        raise UserError(
            f"submission={submission}: not written, because {len(failed)} of {len(answers)} pictures have no answer"
            f" ({names}). The first: {failed[0][1]}"
        )
    return [(name, answer.predictions[0].label) for name, answer in zip(ids, answers, strict=True)]


def write_submission(path: Path, header: Sequence[str], rows: Iterable[Row]) -> int:
    """Writes it atomically, once all rows are there; returns their number.

    Raises:
        UserError: if two have the same id.
    """
    ids: set[str] = set()
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for name, label in rows:
            if name in ids:
                raise UserError(f"submission={path}: not written, because two pictures have the id {name}")
            ids.add(name)
            writer.writerow([name, label])
    return len(ids)
