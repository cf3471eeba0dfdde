"""The files of data sets: found in several places, checked by their MD5 sums, downloaded, parsed."""

import gzip
import hashlib
import io
import logging
import math
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from digits.errors import UserError

log = logging.getLogger(__name__)

# By the first bytes of a file.
IDX_TYPES: dict[bytes, np.dtype] = {b"\0\0\x08": np.dtype(np.uint8), b"\0\0\x0c": np.dtype(">i4")}
DAMAGES = (ValueError, OSError, EOFError, zlib.error)  # what an IDX file that is damaged, packed or not, can raise
MOST_IDX_BYTES = 2**28  # unpacked: more than the largest of these data sets (EMNIST) has
DOWNLOAD_TIMEOUT_SECONDS = 20
GZIP = b"\x1f\x8b"


def lock(folder: Path) -> FileLock:
    """Has one process at a time fetch files to a folder, so that others find them there.

    Users who share the folder share the lock: its file is writable to all, whatever the umask.
    """
    return FileLock(Path(tempfile.gettempdir(), f"digits-data-{md5(str(folder.absolute()).encode())}.lock"), mode=0o666)


class MissingFileError(UserError):
    """A file of the data set is not there."""


class DamagedFileError(UserError):
    """A file of the data set is not the original."""


@dataclass(frozen=True)
class IdxFiles:
    """The IDX files of a data set, each packed (`name.gz`) or unpacked (`name`), known by their content."""

    folders: Sequence[Path]  # where to look, in this order; downloads go to the first
    packed: Mapping[str, str]  # the published MD5 sum of each `name.gz`
    # That of each unpacked content, by the name without `.gz`: a file packed by somebody else has another sum.
    unpacked: Mapping[str, str]
    mirrors: Sequence[str]  # addresses to download `name.gz` from

    def read(self) -> list[np.ndarray]:
        """The array in each file, in the order of `unpacked`.

        Raises:
            UserError: a MissingFileError, a DamagedFileError, or one that says why a file cannot be read.
        """
        return [self._find(name) for name in self.unpacked]

    def fetch(self) -> None:
        """Downloads each file that is nowhere, or damaged.

        Raises:
            UserError: as of `read`, if a file cannot be downloaded; or the folder cannot be written.
        """
        for name in self.unpacked:
            if self._is_original(name):
                continue
            try:
                self._find(name)
            except (MissingFileError, DamagedFileError) as problem:
                log.info("%s", problem)
                path = self.folders[0] / f"{name}.gz"
                with _in_folder(path.parent, "written"):
                    reason = download(path, self.packed[path.name], self.mirrors)
                if reason:
                    raise type(problem)(f"{problem}; and it cannot be downloaded ({reason})") from problem

    def _is_original(self, name: str) -> bool:
        """Whether the first folder has the file as it was published, which is told without unpacking it."""
        path = self.folders[0] / f"{name}.gz"
        return path.is_file() and os.access(path, os.R_OK) and md5(path.read_bytes()) == self.packed[path.name]

    def _find(self, name: str) -> np.ndarray:
        """The array in the first sound file with this name; else raises what is wrong with the first that is there."""
        problems: list[UserError] = []
        for path in (folder / file for folder in self.folders for file in (f"{name}.gz", name)):
            with _in_folder(path, "read"):
                try:
                    content = path.read_bytes()
                except FileNotFoundError:
                    continue
            unpacked = b""
            with suppress(*DAMAGES):
                unpacked = unpack(content)
            if md5(unpacked) == self.unpacked[name]:
                return parse_idx(unpacked)
            reason = idx_problem(content, classes=10) or "not the original"
            damage = (
                f"{path}: damaged, or another file: {reason} ({len(content):,} bytes with MD5 {md5(content)}, expected"
                f" {self.packed[f'{name}.gz']}). Replace it, or delete it to have it downloaded"
            )
            problems.append(DamagedFileError(damage))
        problems.append(MissingFileError(f"{self.folders[0] / name}.gz: no such file"))
        raise problems[0]


@contextmanager
def _in_folder(path: Path, to_be: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be {to_be} ({error.strerror}). Set data.root or DIGITS_DATA to the folder that holds, or"
            " will hold, MNIST/raw and its like"
        ) from error


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def unpack(content: bytes) -> bytes:
    """The content of a gzip file, or content that is not packed as it is; raises one of DAMAGES."""
    if not content.startswith(GZIP):
        return content
    return gzip.GzipFile(fileobj=io.BytesIO(content)).read(MOST_IDX_BYTES)  # some kilobytes can unpack to gigabytes


def idx_problem(content: bytes, classes: int | None = None) -> str | None:
    """What is wrong with an IDX file, packed or not, as far as the format tells; None if nothing is."""
    try:
        array = parse_idx(unpack(content))
    except DAMAGES as error:
        return str(error)
    if array.ndim == 1 and len(array) and classes and array.max() >= classes:
        return f"labels up to {array.max()} for {classes} classes"
    return None


def parse_idx(content: bytes) -> np.ndarray:
    """An IDX file of unsigned bytes, or of 32-bit integers, as an array of its own shape.

    Source: the format's description on the MNIST page: two zero bytes, a type code, the number of dimensions,
    each dimension as a big-endian 32-bit number, the values.

    Raises:
        ValueError: if the content is no such file.
    """
    problem, start = "", 4 + 4 * sum(content[3:4])
    dtype = IDX_TYPES.get(content[:3]) if len(content) >= 4 else None
    shape = [int.from_bytes(content[place : place + 4], "big") for place in range(4, start, 4)]
    if dtype is None:
        problem = f"not an IDX file: its magic number is {content[:4].hex(' ') or 'missing'}"
    elif len(content) < start:
        problem = f"an IDX header of {len(shape)} dimensions needs {start} bytes, there are {len(content)}"
    elif (announced := math.prod(shape) * dtype.itemsize) != len(content) - start:
        sizes = "×".join(map(str, shape))
        problem = f"an IDX file of {sizes} values has {announced:,} bytes of them, there are {len(content) - start:,}"
    if problem or dtype is None:
        raise ValueError(problem)
    return np.frombuffer(content, dtype=dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def download(path: Path, known_md5: str, mirrors: Sequence[str]) -> str:
    """Downloads a file from the first mirror that has it. It takes its place atomically, and only if its sum is right.

    Returns:
        Empty, or why no mirror has it.

    Raises:
        OSError: if the folder cannot be written.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=DOWNLOAD_TIMEOUT_SECONDS, progressbar=sys.stderr.isatty())
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    reasons = []
    for mirror in mirrors:
        log.info("downloading %s%s", mirror, path.name)
        try:
            pooch.retrieve(mirror + path.name, f"md5:{known_md5}", path.name, path.parent, downloader=downloader)
            path.chmod(0o644)  # pooch leaves it readable to its owner alone, but a data folder may be shared
            return ""
        except (requests.RequestException, ValueError) as error:  # ValueError: the wrong sum
            reasons.append(f"{mirror}: {error}")
    with suppress(OSError):
        for empty in made:  # a mistyped data.root leaves no folder behind
            empty.rmdir()
    return "; ".join(reasons)
