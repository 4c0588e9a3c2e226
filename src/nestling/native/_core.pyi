# The C++ core as native/bindings/core.cpp exposes it; only this package imports it.

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_Format: TypeAlias = Literal["float32", "float16", "bfloat16", "q4", "q6", "q8"]
_Planes: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8] | None, NDArray[np.uint8] | None]
_Variant: TypeAlias = Literal["best", "portable", "avx2", "avx512", "neon"]

LAYOUT_VERSION: int
FIRST_INT8_POW2_LAYER: int

MAX_THREADS: int

@final
class ThreadPool:
    def __init__(self, num_threads: int) -> None: ...
    @property
    def num_threads(self) -> int: ...
    def count_pieces_in(self, counter: NDArray[np.int64]) -> None: ...

@final
class MappedFile:
    def __init__(self, descriptor: int) -> None: ...
    @property
    def nbytes(self) -> int: ...

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
    @staticmethod
    def map(
        file: MappedFile,
        packed_format: str,
        num_rows: int,
        row_size: int,
        values: int,
        scales: int | None,
        mins: int | None,
    ) -> Matrix: ...
    def planes(self) -> _Planes: ...
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
    @staticmethod
    def map(
        file: MappedFile,
        packed_format: str,
        num_rows: int,
        row_size: int,
        values: int,
        scales: int | None,
        mins: int | None,
    ) -> RowMatrix: ...
    def planes(self) -> _Planes: ...
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
    @staticmethod
    def map(
        file: MappedFile,
        packed_format: str,
        num_rows: int,
        row_size: int,
        values: int,
        scales: int | None,
        mins: int | None,
    ) -> ColumnMatrix: ...
    def planes(self) -> _Planes: ...
    def unpack(self) -> NDArray[np.float32]: ...
    @property
    def format(self) -> _Format: ...
    @property
    def has_min(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

def stored_types() -> tuple[tuple[str, int, int, int], ...]: ...
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
def read_bandwidth(num_bytes: int, pool: ThreadPool) -> float: ...
def variants() -> tuple[_Variant, ...]: ...

@final
class Gemma3n:
    def __init__(
        self,
        config: dict[str, float],
        layers: list[Any],
        weights: dict[str, Any],
        *,
        max_num_batched_tokens: int,
        max_model_len: int,
        prefill_skip: bool,
        fused_passes: bool,
        wanted_logits_only: bool,
        int16_activations: bool,
        pool: ThreadPool,
        variant: str,
    ) -> None: ...
    def step(
        self,
        cache: KvCache,
        input_ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        query_start_loc: NDArray[np.int32],
        full_block_table: NDArray[np.int32],
        sliding_block_table: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
        logits: NDArray[np.float32],
        on_layer: Callable[[int, NDArray[np.float32]], None] | None = None,
    ) -> None: ...
    def times(self) -> dict[str, float]: ...
    def weight_bytes_per_token(self) -> float: ...

@final
class KvCache:
    def __init__(
        self,
        model: Gemma3n,
        *,
        block_size: int,
        num_full_blocks: int,
        num_sliding_blocks: int,
        is_float16: bool,
    ) -> None: ...
    @property
    def full_block_bytes(self) -> int: ...
    @property
    def sliding_block_bytes(self) -> int: ...
