"""Read-only maps of model files, what tells two files apart, and the one wording for bad ones.

A map costs no memory until its pages are read. It also trusts the file to stay: if someone
truncates or overwrites it while it is mapped, the next read of a lost page ends the process with
SIGBUS (or sees the new bytes). That is why only the engine process maps weights; its supervisor
restarts it. Replace a model by renaming a new file over the old one: a map keeps the old file.
"""

import mmap
import os
import stat
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from nestling.errors import ModelFileError


def corrupt(path: Path, reason: str, *, tensor: str | None = None) -> ModelFileError:
    """The error for a file whose bytes contradict its format or each other."""
    return ModelFileError(path, f"corrupt model file: {reason}", tensor=tensor)


class SourceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model file as it was at some moment."""

    path: str
    num_bytes: int
    mtime_ns: int
    ctime_ns: int
    """Changes even where somebody sets the time of modification back."""


def model_files(model: Path) -> tuple[SourceFile, ...]:
    """The files that hold a model's weights, as they are now; call it before they are mapped.

    None if one is not to be seen; opening the model then says what is wrong.
    """
    try:
        paths = sorted(model.glob("*.safetensors")) if model.is_dir() else [model]
        return tuple(_source_file(path.absolute()) for path in paths)
    except OSError:
        return ()


def _source_file(path: Path) -> SourceFile:
    status = path.stat()
    return SourceFile(str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def map_file(path: Path) -> NDArray[np.uint8]:
    """[num_bytes], read-only; raises ModelFileError if `path` is no readable regular file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(path, "expected a regular file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return np.empty(0, np.uint8)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from error


def advise_random(part: NDArray[np.uint8]) -> None:
    """Tells the system that `part` of a map is read here and there: it fetches only those pages.

    Without it a system may read megabytes around each row: 512 first reads took 10 s and 4 GB of
    cache where its read-ahead was 8 MiB, with it 44 ms and 8 MB.
    """
    _advise(part, "MADV_RANDOM")


def release(part: NDArray[np.uint8]) -> None:
    """Tells the system that `part` of a map was read for the last time.

    Its pages no longer count as this process's memory; the file's cache keeps them.
    """
    _advise(part, "MADV_DONTNEED")


def _advise(part: NDArray[np.uint8], name: str) -> None:
    """For the whole pages within `part`; nothing to do where a system has no such advice."""
    owner: object = part
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    advice: int | None = getattr(mmap, name, None)
    if isinstance(owner, mmap.mmap) and advice is not None:
        offset = part.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
        begin = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        if begin < offset + part.size:
            owner.madvise(advice, begin, offset + part.size - begin)


def read_small_file(path: Path, limit_bytes: int) -> bytes:
    """The whole file; raises ModelFileError if it is unreadable or longer than `limit_bytes`."""
    mapped = map_file(path)
    if mapped.size > limit_bytes:
        raise ModelFileError(
            path, f"has {mapped.size} bytes, expected at most {limit_bytes} for a file of its kind"
        )
    return mapped.tobytes()
