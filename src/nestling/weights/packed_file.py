"""Packed weights in a file: written once for a model and its settings, mapped ever after.

    0           magic, 8 bytes; digest of the header, 16; its length, 8 (little-endian)
    32          header: JSON (`_Header`): whose weights these are, and where each plane lies
    2 MiB       planes as `native.weights` has them in memory, each at a multiple of 64 bytes
    ...         zeros up to a multiple of 2 MiB

Writes are large and begin at multiples of 2 MiB, so that Linux keeps the file's cache in huge pages
and maps it in such. The bytes of the planes are those of this machine's byte order and of
`LAYOUT_VERSION`. Their values are not checked when a file is opened, only their places: a file is
complete before it gets its name.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from nestling.native.weights import LAYOUT_VERSION, ColumnMatrix, MappedFile, Matrix, RowMatrix
from nestling.weights.mapped_file import SourceFile
from nestling.weights.packing import Packed

MAGIC = b"NSTLPK01"
HUGE_PAGE = 2 << 20
_PREFIX_BYTES = 32
_DIGEST_BYTES = 16
_ALIGNMENT = 64
_WRITE_BYTES = 8 << 20
_MAX_HEADER_BYTES = HUGE_PAGE - _PREFIX_BYTES
_Kind = Literal["Matrix", "RowMatrix", "ColumnMatrix"]
_KINDS: dict[str, type[Packed]] = dict(
    zip(get_args(_Kind), (Matrix, RowMatrix, ColumnMatrix), strict=True)
)


class PackedFileError(Exception):
    """The file is none of ours, damaged, or holds other weights; it has to be packed anew."""


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tells whose packed weights these are: equal identities mean equal bytes."""

    sources: tuple[SourceFile, ...]
    dtype: str
    sparse_feed_forward: bool
    layout_version: int = LAYOUT_VERSION


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: _Kind
    format: str
    shape: tuple[int, int]
    planes: tuple[int, int | None, int | None]
    """Where values, scales and minima begin, in bytes."""
    num_bytes: int
    """Of the planes together."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identity: Identity
    file_bytes: int
    tensors: dict[str, _Tensor]


_headers = msgspec.json.Decoder(_Header)


def write_packed(
    descriptor: int,
    identity: Identity,
    matrices: Iterable[tuple[str, Packed]],
    on_written: Callable[[int], None] = lambda _: None,
) -> None:
    """Fill the empty file and have the disk keep it; raises OSError. One matrix at a time.

    Calls `on_written` with the bytes of the file so far after every 8 MiB.
    """
    writer = _PlaneWriter(descriptor, on_written)
    tensors: dict[str, _Tensor] = {}
    for name, packed in matrices:
        values, scales, mins = packed.planes()
        planes = (
            writer.write(values),
            None if scales is None else writer.write(scales),
            None if mins is None else writer.write(mins),
        )
        kind: _Kind = type(packed).__name__  # type: ignore[assignment]
        tensors[name] = _Tensor(kind, packed.format, packed.shape, planes, packed.nbytes)
    header = msgspec.json.encode(_Header(identity, writer.finish(), tensors))
    assert len(header) <= _MAX_HEADER_BYTES, "hundreds of matrices take a few 100 KiB"
    page = MAGIC + _digest(header) + len(header).to_bytes(8, "little") + header
    _write_all(descriptor, memoryview(page.ljust(HUGE_PAGE, b"\0")), 0)
    os.fsync(descriptor)


def open_packed(
    path: Path,
    identity: Identity,
    expected: Mapping[str, tuple[type[Packed], tuple[int, int]]],
) -> dict[str, Packed]:
    """The matrices, in the mapped file; nothing but the header is read.

    `expected` has the arrangement and shape of each. Raises PackedFileError that says why the file
    is of no use, FileNotFoundError if there is none.
    """
    with path.open("rb", buffering=0) as file:
        header = _read_header(file.fileno())
        if header.identity != identity:
            raise PackedFileError(_difference(header.identity, identity))
        found = {
            name: (_KINDS[tensor.kind], tensor.shape) for name, tensor in header.tensors.items()
        }
        if found != dict(expected):
            raise PackedFileError("holds other matrices than the model has")
        mapped = MappedFile(file.fileno())
    if mapped.nbytes != header.file_bytes:
        raise PackedFileError(f"has {mapped.nbytes} bytes, expected {header.file_bytes}")
    return {name: _matrix(mapped, name, tensor) for name, tensor in header.tensors.items()}


def read_sources(path: Path) -> tuple[SourceFile, ...]:
    """The model files that a packed file was made of; raises PackedFileError, OSError."""
    with path.open("rb", buffering=0) as file:
        return _read_header(file.fileno()).identity.sources


def _read_header(descriptor: int) -> _Header:
    prefix = os.pread(descriptor, _PREFIX_BYTES, 0)
    if len(prefix) < _PREFIX_BYTES or not prefix.startswith(MAGIC):
        raise PackedFileError("is no packed file of this version")
    digest, length = prefix[8:24], int.from_bytes(prefix[24:], "little")
    if length > _MAX_HEADER_BYTES:
        raise PackedFileError(f"has a header of {length} bytes, at most {_MAX_HEADER_BYTES} fit")
    raw = os.pread(descriptor, length, _PREFIX_BYTES)
    if _digest(raw) != digest:
        raise PackedFileError("has a damaged header")
    try:
        return _headers.decode(raw)
    except msgspec.MsgspecError as error:
        raise PackedFileError(f"has a header that is not ours: {error}") from error


def _matrix(mapped: MappedFile, name: str, tensor: _Tensor) -> Packed:
    """The core checks that planes of this shape and format lie within the file."""
    values, scales, mins = tensor.planes
    if min(values, scales or HUGE_PAGE, mins or HUGE_PAGE) < HUGE_PAGE:
        raise PackedFileError(f"{name}: a plane begins within the header")
    try:
        packed = _KINDS[tensor.kind].map(
            mapped, tensor.format, *tensor.shape, values=values, scales=scales, mins=mins
        )
    except (TypeError, ValueError) as error:  # TypeError: a negative number
        raise PackedFileError(f"{name}: {error}") from error
    if packed.nbytes != tensor.num_bytes:
        raise PackedFileError(
            f"{name}: has {tensor.num_bytes} bytes, expected {packed.nbytes} of its shape"
        )
    return packed


def _difference(found: Identity, expected: Identity) -> str:
    for field in Identity.__struct_fields__:
        if getattr(found, field) != getattr(expected, field):
            what = "the model file has changed" if field == "sources" else f"another {field}"
            return f"is stale: {what}"
    raise AssertionError("equal identities")


def _digest(header: bytes) -> bytes:
    return blake2b(header, digest_size=_DIGEST_BYTES).digest()


class _PlaneWriter:
    """Gathers planes into large writes, each at a multiple of 2 MiB."""

    def __init__(self, descriptor: int, on_written: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._on_written = on_written
        self._buffer = np.zeros(_WRITE_BYTES, np.uint8)
        self._num_buffered = 0
        self._begin = HUGE_PAGE
        """Where the buffer's first byte goes in the file."""

    def write(self, plane: NDArray[np.uint8]) -> int:
        """Return where the plane begins in the file."""
        self._append(np.zeros(-self._num_buffered % _ALIGNMENT, np.uint8))
        offset = self._begin + self._num_buffered
        self._append(plane)
        return offset

    def finish(self) -> int:
        """Fill up to a huge page and write the rest; returns the size of the file."""
        self._append(np.zeros(-self._num_buffered % HUGE_PAGE, np.uint8))
        self._flush()
        return self._begin

    def _append(self, data: NDArray[np.uint8]) -> None:
        done = 0
        while done < data.size:
            room = min(data.size - done, _WRITE_BYTES - self._num_buffered)
            end = self._num_buffered + room
            self._buffer[self._num_buffered : end] = data[done : done + room]
            self._num_buffered = end
            done += room
            if end == _WRITE_BYTES:
                self._flush()

    def _flush(self) -> None:
        _write_all(self._descriptor, self._buffer[: self._num_buffered].data, self._begin)
        self._begin += self._num_buffered
        self._num_buffered = 0
        self._on_written(self._begin)


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
