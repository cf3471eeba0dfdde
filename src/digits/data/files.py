"""The files of data sets: found in several places, checked by their MD5 sums, downloaded, parsed."""

import gzip
import hashlib
import io
import logging
import math
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from digits.errors import UserError

log = logging.getLogger(__name__)

# By the third byte of an IDX file's magic number.
IDX_TYPES: dict[int, np.dtype] = {0x08: np.dtype(np.uint8), 0x0C: np.dtype(">i4")}
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
    """The IDX files of a data set, each packed (`name.gz`) or unpacked (`name`), known by their content.

    Args:
        folders: where to look, in this order; downloads go to the first.
        packed: the published MD5 sum of each `name.gz`.
        unpacked: the MD5 sum of each unpacked content, by the file's name without `.gz`. A file packed by somebody
            else has another header, and so another sum.
        mirrors: addresses to download `name.gz` from.
    """

    folders: Sequence[Path]
    packed: Mapping[str, str]
    unpacked: Mapping[str, str]
    mirrors: Sequence[str]

    def read(self) -> list[np.ndarray]:
        """The array in each file, in the order of `unpacked`.

        Raises:
            MissingFileError: if a file is nowhere.
            DamagedFileError: if one is there, but is not the original.
            UserError: if one cannot be read.
        """
        return [parse_idx(unpack(self._find(name))) for name in self.unpacked]

    def fetch(self) -> None:
        """Downloads each file that is nowhere, or damaged.

        Raises:
            MissingFileError: if a missing file cannot be downloaded.
            DamagedFileError: if a damaged one cannot.
            UserError: if the folder cannot be read or written.
        """
        for name in self.unpacked:
            try:
                self._find(name)
            except (MissingFileError, DamagedFileError) as problem:
                log.info("%s", problem)
                path = self.folders[0] / f"{name}.gz"
                kind: type[UserError] = type(problem)
                try:
                    reason = download(path, self.packed[path.name], self.mirrors)
                    failed = reason and f"it cannot be downloaded ({reason})"
                except OSError as error:
                    kind, failed = (
                        UserError,
                        f"{path.parent} cannot be written ({error.strerror}). Set another data.root",
                    )
                if failed:
                    raise kind(f"{problem}; and {failed}") from problem

    def _find(self, name: str) -> bytes:
        """The content of the first sound file with this name; else what is wrong with the first one that is there."""
        problems = []
        for path in (folder / file for folder in self.folders for file in (f"{name}.gz", name)):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise UserError(
                    f"{path}: cannot be read ({error.strerror})."
                    " Set data.root or DIGITS_DATA to the folder that holds MNIST/raw and its like"
                ) from error
            sums = {self.packed[f"{name}.gz"], self.unpacked[name]}
            if md5(content) in sums or md5(unpack(content)) in sums:
                return content
            reason = idx_problem(content, classes=10) or "not the original"
            problems.append(
                f"{path}: damaged, or another file: {reason} ({len(content):,} bytes with MD5 {md5(content)}, expected"
                f" {self.packed[f'{name}.gz']}). Replace it, or delete it to have it downloaded"
            )
        if problems:
            raise DamagedFileError(problems[0])
        raise MissingFileError(f"{self.folders[0] / name}.gz: no such file")


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def unpack(content: bytes) -> bytes:
    """The content of a gzip file, or content that is not packed as it is; empty if it is damaged."""
    if content.startswith(GZIP):
        with suppress(OSError, EOFError, zlib.error):
            return _unpacked(content)
        return b""
    return content


def _unpacked(content: bytes) -> bytes:
    return gzip.GzipFile(fileobj=io.BytesIO(content)).read(MOST_IDX_BYTES)  # some kilobytes can unpack to gigabytes


def idx_problem(content: bytes, classes: int | None = None) -> str | None:
    """What is wrong with an IDX file, packed or not, as far as the format tells; None if nothing is."""
    try:
        array = parse_idx(_unpacked(content) if content.startswith(GZIP) else content)
    except (ValueError, OSError, EOFError, zlib.error) as error:
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
    problem, shape = "", []
    dtype = IDX_TYPES.get(content[2]) if len(content) >= 4 and content[:2] == bytes(2) else None
    start = 4 + 4 * content[3] if dtype else 0
    if dtype is None:
        problem = f"not an IDX file: its magic number is {content[:4].hex(' ') or 'missing'}"
    elif len(content) < start:
        problem = f"an IDX header of {content[3]} dimensions needs {start} bytes, there are {len(content)}"
    else:
        shape = [int(size) for size in np.frombuffer(content, dtype=">u4", count=content[3], offset=4)]
        announced, there = math.prod(shape) * dtype.itemsize, len(content) - start
        if there != announced:
            sizes = "×".join(map(str, shape))
            problem = f"an IDX file of {sizes} values has {announced:,} bytes of them, there are {there:,}"
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
