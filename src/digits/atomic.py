"""Atomic writes: neither a crash nor a full disk leaves half of a file under its name."""

import csv
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from digits.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Writes atomically: yields a temporary path in the same folder that replaces `path` on success.

    Raises:
        UserError: if the disk is full; a file that had the name before stays.
    """
    part = path.with_name(f".{os.getpid()}.{path.name}")  # keeps the suffix, by which some writers choose a format
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut could leave the name without its content
        part.replace(path)
    except OSError as error:
        problem: Exception = OSError(error.errno, error.strerror, str(path))  # not the temporary name
        if error.errno in FULL:
            free = shutil.disk_usage(path.parent).free / 2**20
            problem = UserError(
                f"{path}: no room to write it ({error.strerror}; {free:,.1f} MiB are free). Make room, and start again"
                " (training resumes with resume=<the run's folder>)"
            )
        raise problem from error
    finally:
        part.unlink(missing_ok=True)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Iterable[str] = ()) -> None:
    """Writes a CSV atomically; its columns are by default those of all rows, in the order in which they come up."""
    names = [*columns] or list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def remove_leftovers(*folders: Path) -> None:
    """Removes the temporary files of a killed process."""
    for folder in folders:
        for part in folder.glob(".[0-9]*.*"):
            part.unlink(missing_ok=True)
