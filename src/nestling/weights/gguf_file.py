"""Reads GGUF v2 and v3: metadata as plain Python values, tensors as places in the mapped file.

Every length, count, type, alignment and offset is checked against the file before it is used; a
file that claims more than it holds is refused without allocating for the claim. Big-endian files,
the 32-bit counts of v1 and nested arrays are refused.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nestling.weights.mapped_file import corrupt, map_file
from nestling.weights.stored_tensor import StoredTensor
from nestling.weights.stored_types import types_by_code

MAGIC = b"GGUF"
_DEFAULT_ALIGNMENT = 32
# Far above any real file (847 tensors, 45 keys, 514,906 merges, 64-byte names), low enough to hold.
_MAX_KEYS = _MAX_TENSORS = 1 << 16
_MAX_ARRAY = 1 << 22
_MAX_NAME_BYTES = 1 << 10
_MAX_STRING_BYTES = 1 << 24
_MAX_DIMS = 4
_MIN_ENTRY_BYTES = 13  # the shortest key/value: length, no name, type, one byte
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class GgufFile:
    """`metadata`: int, float, bool, str or a list of one of them; `tensors` by GGUF's names."""

    path: Path
    metadata: dict[str, object]
    tensors: dict[str, StoredTensor]


class _Info(NamedTuple):
    begin: int
    """Offset in the data section, in bytes."""
    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int | None
    """None: the type's size is not known here."""


def read_gguf(path: Path) -> GgufFile:
    """Metadata and tensors of the file, shapes as [out, in]; raises ModelFileError."""
    mapped = map_file(path)
    cursor = _Cursor(mapped, path)
    if mapped[:4].tobytes() != MAGIC:
        raise corrupt(path, f"begins with {mapped[:4].tobytes()!r}, a GGUF file with {MAGIC!r}")
    cursor.position = 4
    version = cursor.u32("version")
    if version not in (2, 3):
        raise corrupt(path, f"GGUF version {version:#x}, expected 2 or 3 (little-endian)")
    num_tensors = cursor.count("tensor count", _MAX_TENSORS)
    num_keys = cursor.count("key/value count", _MAX_KEYS)
    metadata = _read_metadata(cursor, num_keys)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment not in (8 << i for i in range(14)):
        raise corrupt(
            path, f"general.alignment is {alignment!r}, expected a power of two from 8 to 65536"
        )
    infos = [_read_info(cursor, alignment) for _ in range(num_tensors)]
    data = mapped[-(-cursor.position // alignment) * alignment :]
    _check_cover(infos, data.size, alignment, path)
    return GgufFile(path, metadata, {info.name: _stored(info, data, path) for info in infos})


class _Cursor:
    """A position in the file that never leaves it."""

    def __init__(self, mapped: NDArray[np.uint8], path: Path) -> None:
        self._mapped = mapped
        self._bytes = mapped.data
        self.path = path
        self.position = 0

    def truncated(self, what: str) -> Exception:
        return corrupt(
            self.path, f"{what} at byte {self.position} ends beyond the file's {self._mapped.size}"
        )

    def take(self, num_bytes: int, what: str) -> NDArray[np.uint8]:
        """[num_bytes] from here on; the position moves behind them."""
        if num_bytes > self._mapped.size - self.position:
            raise self.truncated(what)
        self.position += num_bytes
        return self._mapped[self.position - num_bytes : self.position]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what).tobytes(), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what).tobytes(), "little")

    def count(self, what: str, limit: int, unit_bytes: int = _MIN_ENTRY_BYTES) -> int:
        """A count of things of at least `unit_bytes` each that the rest of the file can hold."""
        count = self.u64(what)
        fits = (self._mapped.size - self.position) // unit_bytes
        if count > min(limit, fits):
            raise corrupt(
                self.path, f"{what} is {count}, expected at most {min(limit, fits)} in this file"
            )
        return count

    def string(self, what: str, limit_bytes: int) -> str:
        return self.strings(1, what, limit_bytes)[0]

    def strings(self, count: int, what: str, limit_bytes: int) -> list[str]:
        """`count` strings in UTF-8; a flat loop, as vocabularies have 262,400 of them."""
        mapped, unpack, position, found = self._bytes, _U64.unpack_from, self.position, []
        try:
            for _ in range(count):
                begin = position + 8
                position = begin + unpack(mapped, position)[0]
                if position - begin > limit_bytes or position > len(mapped):
                    raise corrupt(
                        self.path,
                        f"{what} has a string of {position - begin} bytes at byte {begin}, "
                        f"expected at most {min(limit_bytes, len(mapped) - begin)}",
                    )
                found.append(str(mapped[begin:position], "utf-8"))
        except UnicodeDecodeError as error:
            raise corrupt(self.path, f"{what} at byte {begin} is not UTF-8") from error
        except struct.error as error:
            raise self.truncated(what) from error
        self.position = position
        return found


def _read_metadata(cursor: _Cursor, num_keys: int) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for index in range(num_keys):
        key = cursor.string(f"key {index}", _MAX_NAME_BYTES)
        if key in metadata:
            raise corrupt(cursor.path, f"key {key!r} appears twice")
        metadata[key] = _read_value(cursor, key)
    return metadata


def _read_value(cursor: _Cursor, key: str) -> object:
    value_type = cursor.u32(f"type of key {key!r}")
    if value_type != _ARRAY:
        return _read_items(cursor, key, value_type, 1)[0]
    item_type = cursor.u32(f"item type of key {key!r}")
    if item_type == _ARRAY:
        raise corrupt(cursor.path, f"key {key!r} is an array of arrays")
    unit_bytes = 8 if item_type == _STRING else 1
    count = cursor.count(f"length of array {key!r}", _MAX_ARRAY, unit_bytes)
    return _read_items(cursor, key, item_type, count)


def _read_items(cursor: _Cursor, key: str, item_type: int, count: int) -> list[object]:
    what = f"value of key {key!r}"
    if item_type == _STRING:
        return list(cursor.strings(count, what, _MAX_STRING_BYTES))
    if item_type == _BOOL:
        flags = cursor.take(count, what)
        if flags.size and flags.max() > 1:
            raise corrupt(cursor.path, f"{what} is {flags.max()}, a bool is 0 or 1")
        return list(flags.astype(np.bool_).tolist())
    if item_type not in _NUMBERS:
        raise corrupt(cursor.path, f"{what} has type {item_type}, which GGUF does not define")
    dtype = np.dtype(_NUMBERS[item_type])
    return list(cursor.take(count * dtype.itemsize, what).view(dtype).tolist())


def _read_info(cursor: _Cursor, alignment: int) -> _Info:
    name = cursor.string("tensor name", _MAX_NAME_BYTES)
    num_dims = cursor.u32(f"number of dimensions of {name!r}")
    if not 1 <= num_dims <= _MAX_DIMS:
        raise corrupt(
            cursor.path, f"has {num_dims} dimensions, expected 1 to {_MAX_DIMS}", tensor=name
        )
    shape = tuple(cursor.u64(f"dimensions of {name!r}") for _ in range(num_dims))[::-1]
    num_elements = 1
    for size in shape:
        num_elements *= size
    if max(*shape, num_elements) >= 1 << 63:
        raise corrupt(cursor.path, f"shape {list(shape)} overflows 2^63 elements", tensor=name)
    type_code = cursor.u32(f"type of {name!r}")
    begin = cursor.u64(f"offset of {name!r}")
    if begin % alignment:
        raise corrupt(
            cursor.path, f"offset {begin} is no multiple of the alignment {alignment}", tensor=name
        )
    stored = types_by_code().get(type_code)
    if stored is None:
        return _Info(begin, name, f"type {type_code}", shape, None)
    if shape[-1] % stored.block_elements:
        raise corrupt(
            cursor.path,
            f"rows of {shape[-1]} elements are not whole {stored.name} blocks of "
            f"{stored.block_elements}",
            tensor=name,
        )
    num_bytes = num_elements // stored.block_elements * stored.block_bytes
    return _Info(begin, name, stored.name, shape, num_bytes)


def _check_cover(infos: list[_Info], num_bytes: int, alignment: int, path: Path) -> None:
    """Names must be unique and the tensors cover the data but for padding, as GGML demands."""
    names: set[str] = set()
    expected, after_known = 0, True
    for info in sorted(infos):
        if info.name in names:
            raise corrupt(path, "appears twice", tensor=info.name)
        names.add(info.name)
        end = info.begin + (info.num_bytes or 0)
        if end > num_bytes:
            raise corrupt(
                path,
                f"ends at byte {end} of the data, but the file has only {num_bytes} "
                "(is it truncated?)",
                tensor=info.name,
            )
        if info.begin < expected or (info.begin > expected and after_known):
            kind = "overlaps the tensor before it" if info.begin < expected else "leaves a gap"
            raise corrupt(
                path, f"begins at byte {info.begin}, expected {expected}: {kind}", tensor=info.name
            )
        expected = -(-end // alignment) * alignment
        after_known = info.num_bytes is not None
    if num_bytes > expected and after_known:
        raise corrupt(path, f"holds {num_bytes} bytes of data, its tensors fill {expected}")


def _stored(info: _Info, data: NDArray[np.uint8], path: Path) -> StoredTensor:
    end = info.begin + (info.num_bytes or 0)
    return StoredTensor(path, info.name, info.dtype, info.shape, data[info.begin : end])
