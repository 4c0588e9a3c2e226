# The C++ core as native/bindings/core.cpp exposes it; only this package imports it.

from typing import Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_Dtype: TypeAlias = Literal["float32", "bfloat16"]
_Format: TypeAlias = Literal["float32", "float16", "bfloat16", "q4", "q8"]
_Variant: TypeAlias = Literal["best", "portable", "avx2", "avx512", "neon"]

@final
class ThreadPool:
    def __init__(self, num_threads: int) -> None: ...
    @property
    def num_threads(self) -> int: ...

@final
class PackedLinear:
    @staticmethod
    def pack(weight: NDArray[np.float32], dtype: _Dtype) -> PackedLinear: ...
    @property
    def out_features(self) -> int: ...
    @property
    def in_features(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def dtype(self) -> _Dtype: ...

@final
class Matrix:
    @staticmethod
    def pack(
        data: NDArray[np.uint8],
        dtype: str,
        row_size: int,
        pool: ThreadPool,
        target: _Format | None = None,
    ) -> Matrix: ...
    def unpack(self) -> NDArray[np.float32]: ...
    @property
    def format(self) -> _Format: ...
    @property
    def has_min(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

@final
class RowMatrix:
    @staticmethod
    def pack(
        data: NDArray[np.uint8],
        dtype: str,
        row_size: int,
        pool: ThreadPool,
        target: _Format | None = None,
    ) -> RowMatrix: ...
    def unpack(self) -> NDArray[np.float32]: ...
    @property
    def format(self) -> _Format: ...
    @property
    def has_min(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

@final
class ColumnMatrix:
    @staticmethod
    def pack(
        data: NDArray[np.uint8],
        dtype: str,
        row_size: int,
        pool: ThreadPool,
        target: _Format | None = None,
    ) -> ColumnMatrix: ...
    def unpack(self) -> NDArray[np.float32]: ...
    @property
    def format(self) -> _Format: ...
    @property
    def has_min(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

def decode_rows(
    data: NDArray[np.uint8], dtype: str, row_size: int, index: NDArray[np.int64]
) -> NDArray[np.float32]: ...
def encode_rows(values: NDArray[np.float32], dtype: str, pool: ThreadPool) -> NDArray[np.uint8]: ...
def sample(
    logits: NDArray[np.float32],
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    top_a: float,
    min_p: float,
    uniform: float,
) -> int: ...
def top_logprobs(
    logits: NDArray[np.float32], count: int
) -> tuple[float, NDArray[np.int32], NDArray[np.float32]]: ...
def linear(
    x: NDArray[np.float32], packed: PackedLinear, pool: ThreadPool, variant: _Variant = "best"
) -> NDArray[np.float32]: ...
def attention(
    q: NDArray[np.float32],
    k_cache: NDArray[np.float32],
    v_cache: NDArray[np.float32],
    slots: NDArray[np.int64],
    row_begin: NDArray[np.int64],
    row_end: NDArray[np.int64],
    pool: ThreadPool,
    variant: _Variant = "best",
) -> NDArray[np.float32]: ...
def read_bandwidth(num_bytes: int, pool: ThreadPool) -> float: ...
def variants() -> tuple[_Variant, ...]: ...
