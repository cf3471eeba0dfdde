"""Files of pictures and what was read in them: which files are meant, one answer for each, failures at the end."""

import glob
import logging
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from digits.errors import UserError

if TYPE_CHECKING:
    from digits.pictures.reader import Prediction, Reading

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What was read in a file, or why it cannot be read."""

    path: Path
    reading: "Reading | None" = None
    error: str = ""

    @property
    def marks(self) -> "list[Prediction]":
        """All that was found, in reading order."""
        return self.reading.marks if self.reading else []


def image_paths(images: Any) -> list[Path]:
    """The files that are meant by a path, a folder, a pattern, or a list of them; a file need not exist.

    Of a folder and of a pattern, these are the pictures by name, with those that only their owner takes for pictures,
    such as a PDF; what is hidden is none. A line says how many other files there are.

    Raises:
        ValueError: if one of them means no file.
    """
    paths: list[Path] = []
    for name in images if isinstance(images, list) and images else [images]:
        found = _files(Path(str(name)).expanduser()) if isinstance(name, str | int | float) and name != "" else []
        if not found:
            raise ValueError(
                f"no picture in {name!r}. Give a file, a folder with pictures (PNG, JPEG, WebP, BMP, TIFF, ...),"
                " a pattern ('scans/**/*.png'), or several: images=[a.png,b.png]"
            )
        paths += found
    return paths


ImagePaths = Annotated[list[Path], BeforeValidator(image_paths)]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return _pictures(path, path.iterdir())
    if glob.has_magic(str(path)) and not path.exists():
        matches = list(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 - a pattern may begin with /
        return _pictures(path, matches) or sorted(file for file in matches if not file.is_dir())
    return [path]


def _pictures(place: Path, files: Iterable[Path]) -> list[Path]:
    """Those that are pictures by name, sorted."""
    from digits.pictures.decode import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES

    known = IMAGE_SUFFIXES | UNREADABLE_SUFFIXES
    visible = sorted(file for file in files if not (file.name.startswith(".") or file.is_dir()))
    pictures = [file for file in visible if file.suffix.lower() in known]
    others = [file.name for file in visible if file.suffix.lower() not in known]
    if pictures and others:
        log.info("%s: no pictures by their names, and left out: %s", place, some(others))
    return pictures


def some(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def output_names(paths: Sequence[Path], counts: Sequence[int]) -> list[list[str]]:
    """Names for the files that are written of each file: its own without the suffix, and a number where there are more.

    No two are the same, not even where capitals and small letters are; if need be, the files themselves are numbered.

    Args:
        paths: of the files.
        counts: how many files are written of each.
    """
    stems = [path.stem for path in paths]
    for names in (stems, [f"{i:04d}_{stem}" for i, stem in enumerate(stems, start=1)]):
        written = [
            [name] if count == 1 else [f"{name}_{i}" for i in range(1, count + 1)]
            for name, count in zip(names, counts, strict=True)
        ]
        alike = [unicodedata.normalize("NFC", name).casefold() for group in written for name in group]
        if len(set(alike)) == len(alike):
            break
    return written


def read_files(paths: Sequence[Path], read: "Callable[[Path], Reading]") -> Iterator[Answer]:
    """Reads one file after the other under a progress bar; one that cannot be read does not stop the others."""
    from tqdm import tqdm

    for path in tqdm(paths, unit="image", leave=False, disable=None):  # None: no bar where there is no terminal
        yield _answer(path, read)


def _answer(path: Path, read: "Callable[[Path], Reading]") -> Answer:
    try:
        return Answer(path, read(path))
    except UserError as error:
        return Answer(path, error=str(error))
    except Exception as error:  # an unforeseen one too: the other files still get their answers
        reason = " ".join(str(error).split())
        return Answer(path, error=f"{path}: cannot be read ({type(error).__name__}: {reason}). Please report it")


def report_failures(answers: Sequence[Answer]) -> None:
    """Prints why files cannot be read.

    Raises:
        UserError: if there is such a file.
    """
    failed = [answer.error for answer in answers if answer.error]
    if failed and len(answers) > 1:
        print(*(f"error: {error}" for error in failed), sep="\n", file=sys.stderr)
        failed = [f"{len(failed)} of {len(answers)} files cannot be read, as said above"]
    if failed:
        raise UserError(failed[0])
