"""CSV files of image names and labels. They may come from anybody: none leads to a file outside its own folder."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from digits.errors import UserError, one_line_errors
from digits.pictures.decode import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from pandas import DataFrame

# What columns are called, the surest name first; in small letters.
FILE = ("file", "filename", "file_name", "image", "path", "filepath", "image_id", "imageid", "id")
LABEL = ("label", "class", "target", "digit")
SPLIT = ("split",)
ID = ("id", "imageid", "image_id")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Listed:
    """An image's file with the name of its class, or its id; the split that it is of (`train`, `val`, `test`), and
    where that is said.
    """

    path: Path
    label: str
    split: str
    said: str


def read_table(path: Path, dtype: Any = str) -> Iterator["DataFrame"]:
    """A CSV file: a frame of its first row alone, the header, then frames of at most 500 rows, without blank ones.

    Columns are separated by commas, semicolons or tabs, and known by their place. The index is the number of the line,
    where no cell above has line breaks in it.

    Args:
        path: of the file.
        dtype: of all columns; or, by their place, of some, and pandas finds out what the others are.

    Raises:
        UserError: if it cannot be read, or a row has more cells than the header. The last of a shorter one are empty.
    """
    import pandas as pd

    with one_line_errors(path, "empty, damaged, or not a CSV with a header in UTF-8"):
        with path.open(encoding="utf-8-sig") as file:
            start = file.readline(100_000)
        separator = max(",;\t", key=start.count)
        form: dict[str, Any] = {
            "header": None,
            "skip_blank_lines": False,
            "keep_default_na": False,
            "low_memory": False,
        }
        with pd.read_csv(path, sep=separator, dtype=dtype, encoding="utf-8-sig", chunksize=500, **form) as reader:
            yield reader.get_chunk(1)
            for rows in reader:
                rows.index += 1
                yield rows[(rows != "").any(axis=1)]


def header_of(path: Path) -> list[str]:
    """The names of the columns; raises what `read_table` does."""
    return [name.strip() for name in next(read_table(path)).iloc[0]]


def column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Which column has one of the names, however they are capitalised; None if there is none."""
    found = [name.casefold() for name in header]
    return next((found.index(name) for name in names if name in found), None)


def listed_images(path: Path, what: Sequence[str] = LABEL) -> list[Listed]:
    """The images that a CSV lists, in its order.

    Args:
        path: of the CSV.
        what: stands beside the files: LABEL, and maybe splits; or ID, and without such a column they are the ids.

    Raises:
        UserError: for what is wrong in it, with the line.
    """
    header = header_of(path)
    file, label, split = _columns(header, what)
    listed, lines, breaks, problem = list[Listed](), dict[Path, int](), "".join(header).count("\n"), ""
    if file is None or label is None or any(map(_is_data, header)):
        needed = "tells files from labels. Let it be file,label" if what is LABEL else "names the files. Call them file"
        problem = f", line 1: {textwrap.shorten(', '.join(header), 100)}: no header that {needed}"
    frames = [] if problem else islice(read_table(path), 1, None)
    for row, *cells in chain.from_iterable(frame.itertuples() for frame in frames):
        line, breaks = row + breaks, breaks + "".join(cells).count("\n")
        name, said = cells[file or 0].strip(), cells[label or 0].strip()
        part = "train" if split is None else SPLITS.get(cells[split].strip().casefold(), "")
        image, pure = path.parent / name, PureWindowsPath(name)  # which knows both slashes
        if not name or pure.drive or pure.root or ".." in pure.parts:
            problem = f"{name!r} is no file name relative to {path.parent}"
        elif not image.is_file():
            problem = f"{image}: no such file"
        elif image in lines and what is LABEL:
            problem = f"{name} stands on line {lines[image]} too. Leave one"
        elif not said:
            problem = f"no {what[0]}"
        elif not part:
            problem = f"split={cells[split or 0]!r}: there are {', '.join(SPLITS)}"
        if problem:
            problem = f", line {line}: {problem}"
            break
        lines[image] = line
        listed.append(Listed(image, said, part, f"{path}, line {line}"))
    if not (listed or problem):
        problem = ": it lists no images. Give a line for each, below the header"
    if problem:
        raise UserError(f"{path}{problem}")
    return listed


def _columns(header: Sequence[str], what: Sequence[str]) -> tuple[int | None, int | None, int | None]:
    """Which columns hold files, what stands beside them, and splits.

    Of two that are called otherwise than files and labels, the first holds the files; so does a column that is alone.
    """
    file, beside, split = (column(header, names) for names in (FILE, what, SPLIT))
    rest = [i for i in range(len(header)) if i not in (file, beside, split)]
    if what is LABEL and [file, beside].count(None) == len(rest):
        file = rest.pop(0) if file is None else file
        beside = rest.pop(0) if beside is None else beside
    if what is ID:
        file = 0 if len(header) == 1 else file
        beside, split = file if beside is None else beside, None
    return file, beside, split


def _is_data(cell: str) -> bool:
    """Whether a first line is no header, because a file's name or a number is in it."""
    return Path(cell).suffix.lower() in IMAGE_SUFFIXES or cell.replace(".", "").isdigit()
