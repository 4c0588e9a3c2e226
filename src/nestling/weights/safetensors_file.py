"""Reads safetensors: one file, or the shards that a folder's `model.safetensors.index.json` names.

Every number of a header is checked before it is used: a file either describes exactly its own bytes
(no overlap, no gap, nothing beyond the end) or is refused. Nothing is ever unpickled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from nestling.errors import ModelFileError
from nestling.weights.json_file import MAX_JSON_BYTES, parse_object, read_object
from nestling.weights.mapped_file import corrupt, map_file
from nestling.weights.stored_tensor import StoredTensor

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_MAX_DIMS = 8
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits per element of the format's types. Of other types only the place is checked."""


class _Entry(NamedTuple):
    begin: int
    end: int
    name: str
    dtype: str
    shape: tuple[int, ...]


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of one file by its stored name; raises ModelFileError for a bad header."""
    mapped = map_file(path)
    if mapped.size < 8:
        raise corrupt(path, f"has {mapped.size} bytes, a safetensors header needs at least 8")
    header_len = int.from_bytes(mapped[:8].tobytes(), "little")
    if header_len > min(MAX_JSON_BYTES, mapped.size - 8):
        raise corrupt(
            path,
            f"its header claims {header_len} bytes, expected at most {MAX_JSON_BYTES} "
            f"and no more than the file's {mapped.size}",
        )
    header = parse_object(mapped[8 : 8 + header_len].tobytes(), path, "the header")
    header.pop("__metadata__", None)
    data = mapped[8 + header_len :]
    entries = sorted(_entry(name, fields, path) for name, fields in header.items())
    _check_cover(entries, data.size, path)
    return {entry.name: _stored(entry, data, path) for entry in entries}


def read_safetensors_folder(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the folder's single file, or of the shards that its index names."""
    single, index = folder / SINGLE_NAME, folder / INDEX_NAME
    if single.is_file():
        return read_safetensors(single)
    if index.is_file():
        return _read_shards(folder, index)
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    if shards:
        raise ModelFileError(
            folder, f"holds {shards[0]} but neither {SINGLE_NAME} nor {INDEX_NAME}"
        )
    raise ModelFileError(folder, f"holds neither {SINGLE_NAME} nor {INDEX_NAME}")


def _read_shards(folder: Path, index: Path) -> dict[str, StoredTensor]:
    """The index decides where a tensor lies; a shard's tensors that it does not name are left."""
    weight_map = _weight_map(index)
    shards = {name: _read_shard(folder, name, index) for name in sorted(set(weight_map.values()))}
    for tensor, shard in weight_map.items():
        holders = [name for name, tensors in shards.items() if tensor in tensors]
        if holders != [shard]:
            found = " and ".join(holders) or "no shard"
            raise corrupt(index, f"places it in {shard}, but {found} holds it", tensor=tensor)
    return {tensor: shards[shard][tensor] for tensor, shard in weight_map.items()}


def _read_shard(folder: Path, name: str, index: Path) -> dict[str, StoredTensor]:
    if not (folder / name).is_file():
        raise ModelFileError(folder / name, f"is missing; {index.name} names this shard")
    return read_safetensors(folder / name)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard file name, a plain name inside the folder.

    The file itself may be a link, as in Hugging Face's cache; the name may not lead elsewhere.
    """
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise corrupt(index, "has no weight_map object that names tensors and shards")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_plain_shard_name(shard):
            raise corrupt(
                index,
                f"places it in {shard!r}, expected the name of a .safetensors file in this folder",
                tensor=tensor,
            )
    return cast("dict[str, str]", weight_map)


def _is_plain_shard_name(name: str) -> bool:
    return name.endswith(".safetensors") and name.isprintable() and not set(name) & set('/\\:"')


def _entry(name: str, fields: object, path: Path) -> _Entry:
    if not isinstance(fields, Mapping):
        raise corrupt(path, "its header entry is no object", tensor=name)
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str):
        raise corrupt(path, f"dtype is {dtype!r}, expected a string", tensor=name)
    dims = _sizes(shape, "shape", name, path)
    ends = _sizes(offsets, "data_offsets", name, path)
    if len(ends) != 2 or ends[0] > ends[1]:
        raise corrupt(path, f"data_offsets are {list(ends)}, expected [begin, end]", tensor=name)
    begin, end = ends
    num_bits = _BITS.get(dtype, 0)
    for size in dims:
        num_bits *= size
    if dtype in _BITS and num_bits != 8 * (end - begin):
        raise corrupt(
            path,
            f"{dtype} of shape {list(dims)} needs {num_bits / 8:.16g} bytes, "
            f"data_offsets hold {end - begin}",
            tensor=name,
        )
    return _Entry(begin, end, name, dtype, dims)


def _sizes(value: object, field: str, name: str, path: Path) -> tuple[int, ...]:
    """`value` as at most 8 counts below 2^63."""
    if isinstance(value, list) and len(value) <= _MAX_DIMS:
        counts = [item for item in value if type(item) is int and 0 <= item < 1 << 63]
        if len(counts) == len(value):
            return tuple(counts)
    raise corrupt(
        path, f"{field} is not a list of at most {_MAX_DIMS} counts below 2^63", tensor=name
    )


def _check_cover(entries: list[_Entry], num_bytes: int, path: Path) -> None:
    """The tensors in file order must cover the data exactly, as the format demands."""
    expected = 0
    for entry in entries:
        if entry.end > num_bytes:
            raise corrupt(
                path,
                f"ends at byte {entry.end} of the data, but the file has only {num_bytes} "
                "(is it truncated?)",
                tensor=entry.name,
            )
        if entry.begin != expected:
            kind = "overlaps the tensor before it" if entry.begin < expected else "leaves a gap"
            raise corrupt(
                path,
                f"begins at byte {entry.begin}, expected {expected}: {kind}",
                tensor=entry.name,
            )
        expected = entry.end
    if expected != num_bytes:
        raise corrupt(path, f"holds {num_bytes} bytes of data, its header describes {expected}")


def _stored(entry: _Entry, data: NDArray[np.uint8], path: Path) -> StoredTensor:
    return StoredTensor(path, entry.name, entry.dtype, entry.shape, data[entry.begin : entry.end])
