"""Files of pictures and what was read in them: which files are meant, one answer for each, failures at the end."""

import glob
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from digits.errors import UserError

if TYPE_CHECKING:
    from digits.pictures.reader import Prediction


@dataclass(frozen=True)
class Answer:
    """The answer for one file: predictions from left to right, or why there are none."""

    path: Path
    predictions: "list[Prediction]" = field(default_factory=list)
    error: str = ""


def image_paths(images: Any) -> list[Path]:
    """The files that are meant by a path, a folder, a pattern, or a list of them; a file need not exist.

    Raises:
        ValueError: if one of them means no file.
    """
    paths: list[Path] = []
    for name in images if isinstance(images, list) and images else [images]:
        found = _files(Path(str(name)).expanduser()) if isinstance(name, str | int | float) and name != "" else []
        if not found:
            raise ValueError(
                f"no picture in {name!r}. Give a file, a folder with pictures (PNG, JPEG, WebP, BMP, TIFF), a pattern,"
                " or several: images=[a.png,b.png]"
            )
        paths += found
    return paths


ImagePaths = Annotated[list[Path], BeforeValidator(image_paths)]


def _files(path: Path) -> list[Path]:
    from digits.pictures.decode import IMAGE_SUFFIXES

    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if glob.has_magic(str(path)) and not path.exists():
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - a pattern may begin with /
        return sorted(file for file in matches if not file.is_dir())
    return [path]


def output_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file's output: its own without the suffix; if two are the same, all of them are numbered."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [f"{i:04d}_{stem}" for i, stem in enumerate(stems, start=1)]


def read_files(paths: Sequence[Path], read: "Callable[[Path], list[Prediction]]") -> Iterator[Answer]:
    """Reads one file after the other under a progress bar; one that cannot be read does not stop the others."""
    from tqdm import tqdm

    for path in tqdm(paths, unit="image", leave=False, disable=None):  # None: no bar where there is no terminal
        yield _answer(path, read)


def _answer(path: Path, read: "Callable[[Path], list[Prediction]]") -> Answer:
    from digits.pictures.normal_form import NothingFoundError

    try:
        return Answer(path, read(path))
    except NothingFoundError as error:
        return Answer(path, error=f"{path}: {error}")
    except UserError as error:
        return Answer(path, error=str(error))
    except Exception as error:  # an unforeseen one too: the other files still get their answers
        reason = " ".join(str(error).split())
        return Answer(path, error=f"{path}: cannot be read ({type(error).__name__}: {reason}). Please report it")


def report_failures(answers: Sequence[Answer]) -> None:
    """Prints why files have no answer.

    Raises:
        UserError: if there is such a file.
    """
    failed = [answer.error for answer in answers if answer.error]
    if failed and len(answers) > 1:
        print(*(f"error: {error}" for error in failed), sep="\n", file=sys.stderr)
        failed = [f"{len(failed)} of {len(answers)} files have no answer, as said above"]
    if failed:
        raise UserError(failed[0])
