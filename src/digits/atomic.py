"""Files that are whole or absent: neither a crash nor a full disk leaves half of one under its name."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from digits.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Hands out a temporary name to write to, in the same folder; what was written there then takes the path's place.

    Raises:
        UserError: if there is no room left; what had that name before stays.
    """
    part = path.with_name(f".{os.getpid()}.{path.name}")  # with its suffix, by which some writers go
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut could leave the name without its content
        part.replace(path)
    except OSError as error:
        if error.errno not in FULL:
            raise OSError(error.errno, error.strerror, str(path)) from error  # the temporary name tells nobody anything
        free = shutil.disk_usage(path.parent).free / 2**20
        raise UserError(
            f"{path}: no room to write it ({error.strerror}; {free:,.1f} MiB are free). Make room, and start again"
            " (training goes on with resume=<the run's folder>)"
        ) from error
    finally:
        part.unlink(missing_ok=True)
