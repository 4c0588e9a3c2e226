"""Writes GGUF v3: metadata, then tensors a chunk at a time, so that memory stays bounded.

The file appears under its name only when it is whole: until then it is a hidden file beside it,
which is removed if anything fails.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nestling.errors import ModelFileError
from nestling.weights.progress import Progress, no_progress
from nestling.weights.stored_types import stored_type

_ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9

MetadataValue = int | float | bool | str | Sequence[str] | NDArray[np.generic]
"""Written as u32, f32, bool, string, an array of strings, or one of i32, u32, f32 or bool."""


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to write: `chunks()` yields its bytes in order, as many as type and shape say."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """[out, in], as everywhere but inside the file."""
    chunks: Callable[[], Iterable[NDArray[np.uint8]]]

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole tensor."""
        stored = stored_type(self.dtype)
        num_elements = int(np.prod(self.shape, dtype=np.int64))
        return num_elements // stored.block_elements * stored.block_bytes


def write_gguf(
    path: Path,
    metadata: Mapping[str, MetadataValue],
    tensors: Sequence[OutputTensor],
    progress: Progress = no_progress,
) -> int:
    """Write the file and return its size in bytes; raises ModelFileError if it cannot.

    Calls `progress` after each chunk of a tensor.
    """
    num_total = sum(tensor.num_bytes for tensor in tensors)
    num_done = 0
    try:
        with _replacing(path) as file:
            file.write(_header(metadata, tensors))
            for tensor in tensors:
                _pad(file)
                begin = file.tell()
                for chunk in tensor.chunks():
                    file.write(chunk.data)
                    num_done += chunk.nbytes
                    progress(num_done, num_total)
                assert file.tell() - begin == tensor.num_bytes, tensor.name
            _pad(file)
            return file.tell()
    except OSError as error:
        raise ModelFileError(path, f"cannot be written: {error.strerror}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` at the end, or is removed on an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))


def _header(metadata: Mapping[str, MetadataValue], tensors: Sequence[OutputTensor]) -> bytes:
    parts = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(value)]
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        parts += [
            _string(tensor.name),
            struct.pack(f"<I{len(dims)}Q", len(dims), *dims),
            struct.pack("<IQ", stored_type(tensor.dtype).ggml_type, offset),
        ]
        offset += -(-tensor.num_bytes // _ALIGNMENT) * _ALIGNMENT
    return b"".join(parts)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: MetadataValue) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, np.ndarray):
        kind = {"int32": _INT32, "uint32": _UINT32, "float32": _FLOAT32, "bool": _BOOL}
        return struct.pack("<IIQ", _ARRAY, kind[value.dtype.name], value.size) + value.tobytes()
    items = b"".join(map(_string, value))
    return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + items
