"""The archive that torch writes: saved atomically, opened without running anything in it."""

import io
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from digits.atomic import atomic_write
from digits.errors import UserError

# What the pickles in the archives call that `save` writes. torch lets more through, with which a small file can fill
# the memory: bytearray is one.
CALLED = {
    *("collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device"),
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
} | {
    f"torch.{kind}Storage"
    for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
}
EXTRA = "archive/extra/"  # beside what torch reads of its archive
MOST_EXTRA_BYTES = 2**20
WANTED = "Give a best.ckpt or last.ckpt that train.py wrote"


def save(content: Any, path: Path, extra: Mapping[str, bytes] | None = None) -> None:
    """`torch.save`, atomically; with `extra`, by name, what `torch.load` does not see and `read_extra` gives back."""
    buffer = io.BytesIO()  # torch's own writer says of a full disk only that it failed
    torch.save(content, buffer)
    if extra:
        with zipfile.ZipFile(buffer, "a") as archive:  # stored without compression, as all in it
            for name, part in extra.items():
                archive.writestr(zipfile.ZipInfo(EXTRA + name), part)  # a date of its own would change the bytes
    with atomic_write(path) as file:
        file.write_bytes(buffer.getbuffer())


def dumps(content: Any) -> bytes:
    """As `save`, without a file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load(path: str | Path) -> Any:
    """`torch.load` on the CPU of what `save` wrote. Nothing in the file is run, and no changed bit gets through.

    torch alone would accept weights with changed bits: it does not look at its archive's checksums.

    Raises:
        UserError: saying what is wrong with the file.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    return loads(content, path)


def loads(content: bytes, path: str | Path) -> Any:
    """As `load`, of what the file at the path holds, or a part of it."""
    cause: Exception | None = None
    try:
        problem = _damage(content)
        if problem is None:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what is in it can break the unpickler anywhere
        problem, cause = f"no checkpoint: its content cannot be read ({type(error).__name__})", error
    raise UserError(f"{path}: {problem}") from cause


def read_extra(path: str | Path, name: str) -> bytes | None:
    """What `save` put beside the content, up to 1 MiB; None if there is none. `load` checks the file first."""
    with zipfile.ZipFile(path) as archive:
        if EXTRA + name not in archive.namelist():
            return None
        with archive.open(EXTRA + name) as file:
            return file.read(MOST_EXTRA_BYTES)


def _damage(content: bytes) -> str | None:
    """What is wrong with the archive that torch writes; None if nothing is."""
    if not content:
        return "empty: the file has no content"
    if content[0] == 0x80:  # how a pickle starts
        return "refused: a bare pickle, which could run code when it is opened, and no checkpoint"
    if not content.startswith(b"PK"):
        return f"no checkpoint, but a file of another kind. {WANTED}"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name.lower() for name in archive.namelist()]  # torch's reader takes small letters for capitals
            packed = any(
                part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()
            )  # could fill the memory
            if packed or len(set(names)) < len(names):  # of two with one name, torch might read the other
                return f"no checkpoint, but an archive of another kind. {WANTED}"
            if broken := archive.testzip():
                return f"damaged: {broken} in it has not the content that it was written with. Take another copy of it"
            for part in (name for name in archive.namelist() if name.lower().endswith(".pkl")):
                called = {
                    str(name).replace(" ", ".")
                    for operation, name, _ in pickletools.genops(archive.read(part))
                    if operation.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
                }
                if foreign := called - CALLED:
                    return f"refused: it could run code ({min(foreign)}). A checkpoint of train.py is plain data"
    except Exception as error:  # damage can break the reader anywhere
        if not zipfile.is_zipfile(io.BytesIO(content)):
            return f"truncated: after {len(content):,} bytes its end is missing. Take another copy of it"
        return f"damaged ({' '.join(str(error).split()) or type(error).__name__}). Take another copy of it"
    return None
