"""Weights as model files hold them: rows as float32, and packing into the forms that kernels read.

`Matrix`, `RowMatrix` and `ColumnMatrix` (for which kernels: native/include/nestling/matrix.h) each
have `pack(data, dtype, row_size, pool, target=None)`: `data` uint8 [num_bytes] are whole rows of
`row_size` elements of the stored type `dtype`, named as GGML names it ("Q4_0", "BF16"). `target`
None keeps the stored values, but that products of scales of Q4_K, Q5_K and IQ4_XS are rounded to
f16, and that Q2_K becomes "q8"; so do Q3_K and Q6_K as rows or columns, while as a `Matrix` they
become "q6", which nothing else does. `unpack()` gives float32 [out, in]. Bad arguments raise
ValueError or TypeError.

`planes()` are the packed bytes (values, scales or None, mins or None) without a copy. `map(file,
packed_format, num_rows, row_size, values, scales, mins)` is the same matrix again where a
`MappedFile(descriptor)` has those bytes at the given offsets; ValueError if they do not fit into
it. `LAYOUT_VERSION` grows when packing gives other bytes than before.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nestling.native import _core
from nestling.native._core import LAYOUT_VERSION, ColumnMatrix, MappedFile, Matrix, RowMatrix
from nestling.native.system import ThreadPool

__all__ = [
    "LAYOUT_VERSION",
    "ColumnMatrix",
    "MappedFile",
    "Matrix",
    "RowMatrix",
    "StoredType",
    "decode_rows",
    "encode_rows",
    "stored_types",
]


class StoredType(NamedTuple):
    """An element type of model files that the core reads."""

    name: str
    """GGML's name, such as "Q4_0" or "BF16"."""
    ggml_type: int
    """GGML's code, as GGUF files have it."""
    block_elements: int
    block_bytes: int


def stored_types() -> tuple[StoredType, ...]:
    """Return every type that `decode_rows` and `pack` read."""
    return tuple(StoredType(*row) for row in _core.stored_types())


def decode_rows(
    data: NDArray[np.uint8], dtype: str, row_size: int, index: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return rows `index` of the stored matrix `data` [num_bytes], as [len(index), row_size].

    Only these rows are read. The values are those of the `gguf` library. Raises ValueError on an
    unknown type or on bytes that are not whole rows, IndexError on a row that is not there.
    """
    return _core.decode_rows(data, dtype, row_size, index)


def encode_rows(values: NDArray[np.float32], dtype: str, pool: ThreadPool) -> NDArray[np.uint8]:
    """Return `values` [num_rows, row_size] as F32, F16, Q8_0 or Q4_0: [num_rows, row_bytes].

    The bytes are those of the `gguf` library for finite values. Raises ValueError on another type
    or on rows that are not whole blocks.
    """
    return _core.encode_rows(values, dtype, pool)
