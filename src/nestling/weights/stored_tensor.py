"""Named tensors as they lie in mapped files, decoded when asked: the weights' `TensorSource`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nestling.errors import ModelFileError
from nestling.native.weights import decode_rows
from nestling.weights.dequantize import dequantize


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor's place in a mapped file. `data` [num_bytes] are its bytes, row after row."""

    path: Path
    stored_name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return int(np.prod(self.shape, dtype=np.int64))

    def part(self, index: int) -> "StoredTensor":
        """The matrix `self[index]` of a stack of matrices."""
        num_bytes = self.data.size // self.shape[0]
        data = self.data[index * num_bytes : (index + 1) * num_bytes]
        return replace(self, shape=self.shape[1:], data=data)

    def first_rows(self, num_rows: int) -> "StoredTensor":
        """The tensor without what follows its first `num_rows` rows."""
        data = self.data[: self.data.size // self.shape[0] * num_rows]
        return replace(self, shape=(num_rows, *self.shape[1:]), data=data)


class StoredTensors:
    """A read-only `TensorSource` over mapped files; keeps nothing decoded. Safe from any thread."""

    def __init__(self, path: Path, tensors: Mapping[str, StoredTensor]) -> None:
        self._path = path
        self._tensors = dict(sorted(tensors.items()))

    def names(self) -> Sequence[str]:
        """All tensor names, sorted."""
        return tuple(self._tensors)

    def stored(self, name: str) -> StoredTensor:
        """Return where the tensor lies and in which type; raises ModelFileError if missing."""
        try:
            return self._tensors[name]
        except KeyError:
            raise ModelFileError(self._path, "is missing", tensor=name) from None

    def shape(self, name: str) -> tuple[int, ...]:
        """[out, in] for matrices, as in the checkpoint; raises ModelFileError if missing."""
        return self.stored(name).shape

    def tensor(self, name: str) -> NDArray[np.float32]:
        """The whole tensor, C-contiguous; of an F32 file a read-only view of the map."""
        stored = self.stored(name)
        return dequantize(stored.dtype, stored.data).reshape(stored.shape)

    def rows(self, name: str, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """[len(index), in]: rows of a matrix; reads only these rows of the file."""
        stored = self.stored(name)
        num_rows, row_size = stored.shape
        assert index.size == 0 or (index.min() >= 0 and index.max() < num_rows), (name, num_rows)
        return decode_rows(stored.data, stored.dtype, row_size, index)
