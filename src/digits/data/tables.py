"""CSV files of image names and labels. They may come from anybody: none leads to a file outside its own folder."""

import csv
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from digits.errors import UserError
from digits.pictures.decode import IMAGE_SUFFIXES

# What columns are called, the surest name first; in small letters.
FILE = ("file", "filename", "file_name", "image", "path", "filepath", "image_id", "imageid", "id")
LABEL = ("label", "class", "target", "digit")
SPLIT = ("split",)
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Listed:
    """An image's file with the name of its class, the split that it is of (`train`, `val`, `test`), and where that is
    said.
    """

    path: Path
    label: str
    split: str
    said: str


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file, each with the number of its line; the first is the header. Blank ones are left out.

    Columns are separated by commas, semicolons or tabs.

    Raises:
        UserError: if it cannot be read, or a row has more or fewer cells than the header.
    """
    width, line = 0, 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            start = file.readline(100_000)
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=start.count), strict=True)
            for row in reader:
                line, cells = reader.line_num, [cell.strip() for cell in row]
                if not any(cells):
                    continue
                width = width or len(cells)
                if len(cells) != width:
                    raise ValueError(f"{len(cells)} columns, and the header has {width}")
                yield line, cells
    except UnicodeDecodeError as error:  # which is a ValueError
        raise UserError(f"{path}: not in UTF-8. Save it as CSV in UTF-8") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}, {'after ' if isinstance(error, csv.Error) else ''}line {line}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if not width:
        raise UserError(f"{path}: an empty file. Give one with a header, such as file,label")


def column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Which column has one of the names, however they are capitalised; None if there is none."""
    found = [name.casefold() for name in header]
    return next((found.index(name) for name in names if name in found), None)


def looks_like_data(cells: Sequence[str]) -> bool:
    """Whether a first line is no header, because a file's name or a number is in it."""
    return any(Path(cell).suffix.lower() in IMAGE_SUFFIXES or cell.replace(".", "").isdigit() for cell in cells)


def file_in(folder: Path, name: str) -> Path:
    """The file of this name, which a table gives, in the table's folder.

    Raises:
        ValueError: if it is not in there.
    """
    pure = PureWindowsPath(name)  # which knows both slashes
    if not name or pure.drive or pure.root or ".." in pure.parts:
        raise ValueError(f"{name!r} is no file name relative to {folder}")
    if not (folder / name).is_file():
        raise ValueError(f"{folder / name}: no such file")
    return folder / name


def listed_images(path: Path) -> list[Listed]:
    """The images that a CSV of file names, labels and maybe splits lists, in its order.

    Raises:
        UserError: for what is wrong in it, with the line.
    """
    rows = read_rows(path)
    _, header = next(rows)
    file, label, split = _columns(path, header)
    listed: list[Listed] = []
    lines: dict[Path, int] = {}
    for line, cells in rows:
        said = f"{path}, line {line}"
        part = SPLITS.get(cells[split].casefold()) if split is not None else "train"
        try:
            image = file_in(path.parent, cells[file])
            problem = f"{cells[file]} stands on line {lines[image]} too. Leave one" if image in lines else ""
        except ValueError as error:
            image, problem = path, str(error)
        if not cells[label]:
            problem = "no label"
        if part is None:
            problem = f"split={cells[split or 0]!r}: there are {', '.join(SPLITS)}"
        if problem:
            raise UserError(f"{said}: {problem}")
        lines[image] = line
        listed.append(Listed(image, cells[label], part or "", said))
    if not listed:
        raise UserError(f"{path}: it lists no images. Give a line for each, below the header")
    return listed


def _columns(path: Path, header: list[str]) -> tuple[int, int, int | None]:
    """Which columns hold files, labels and splits; of two that are called otherwise, the first holds the files."""
    file, label, split = (column(header, names) for names in (FILE, LABEL, SPLIT))
    rest = [i for i in range(len(header)) if i not in (file, label, split)]
    if [file, label].count(None) == len(rest):
        file = rest.pop(0) if file is None else file
        label = rest.pop(0) if label is None else label
    if file is None or label is None or looks_like_data(header):
        raise UserError(
            f"{path}, line 1: {textwrap.shorten(', '.join(header), 100)}: no header that tells files from labels."
            " Let it be file,label"
        )
    return file, label, split
