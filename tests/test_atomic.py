"""Writes are atomic: a file is complete or absent, whatever happens while it is written."""

import errno
import os
from pathlib import Path

import pytest

from digits.atomic import atomic_write
from digits.errors import UserError


def test_the_name_is_taken_once_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_text("before")
    with atomic_write(path) as part:
        assert part.suffix == ".png"
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def half(path: Path, error: BaseException) -> None:
    with atomic_write(path) as part:
        part.write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), OSError(errno.EIO, "broken")])
def test_what_was_there_stays(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("before")
    with pytest.raises(type(error)):
        half(path, error)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(UserError, match=r"last\.ckpt: no room to write it .* MiB are free") as caught:
        half(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a.csv"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(path) as part:
        part.write_text("a")
    assert caught.value.filename == str(path)
