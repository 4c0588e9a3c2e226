# Types of the C++ core, written by make stub from native/bindings. Only this package imports it.
from collections.abc import Callable
from typing import Any, Literal

import numpy
import numpy.typing

MAX_THREADS: int = 256

class ThreadPool:
    def __init__(self, num_threads: int) -> None: ...
    @property
    def num_threads(self) -> int: ...
    def count_pieces_in(self, counter: numpy.typing.NDArray[numpy.int64]) -> None: ...

def sample(
    logits: numpy.typing.NDArray[numpy.float32],
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    top_a: float,
    min_p: float,
    uniform: float,
) -> int: ...
def top_logprobs(
    logits: numpy.typing.NDArray[numpy.float32], count: int
) -> tuple[float, numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.float32]]: ...
def read_bandwidth(num_bytes: int, pool: ThreadPool) -> float: ...
def variants() -> tuple[str, ...]: ...
def stored_types() -> tuple[tuple[str, int, int, int], ...]: ...
def decode_rows(
    data: numpy.typing.NDArray[numpy.uint8],
    dtype: str,
    row_size: int,
    index: numpy.typing.NDArray[numpy.int64],
) -> numpy.typing.NDArray[numpy.float32]: ...
def encode_rows(
    values: numpy.typing.NDArray[numpy.float32], dtype: str, pool: ThreadPool
) -> numpy.typing.NDArray[numpy.uint8]: ...

class MappedFile:
    def __init__(self, descriptor: int) -> None: ...
    @property
    def nbytes(self) -> int: ...

LAYOUT_VERSION: int = 6

class Matrix:
    @staticmethod
    def pack(
        data: numpy.typing.NDArray[numpy.uint8],
        dtype: str,
        row_size: int,
        pool: ThreadPool,
        target: Literal["float32", "float16", "bfloat16", "q4", "q6", "q8"] | None = None,
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
    def planes(
        self,
    ) -> tuple[
        numpy.typing.NDArray[numpy.uint8],
        numpy.typing.NDArray[numpy.uint8] | None,
        numpy.typing.NDArray[numpy.uint8] | None,
    ]: ...
    def unpack(self) -> numpy.typing.NDArray[numpy.float32]: ...
    @property
    def format(self) -> Literal["float32", "float16", "bfloat16", "q4", "q6", "q8"]: ...
    @property
    def has_min(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

class RowMatrix:
    @staticmethod
    def pack(
        data: numpy.typing.NDArray[numpy.uint8],
        dtype: str,
        row_size: int,
        pool: ThreadPool,
        target: Literal["float32", "float16", "bfloat16", "q4", "q6", "q8"] | None = None,
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
    def planes(
        self,
    ) -> tuple[
        numpy.typing.NDArray[numpy.uint8],
        numpy.typing.NDArray[numpy.uint8] | None,
        numpy.typing.NDArray[numpy.uint8] | None,
    ]: ...
    def unpack(self) -> numpy.typing.NDArray[numpy.float32]: ...
    @property
    def format(self) -> Literal["float32", "float16", "bfloat16", "q4", "q6", "q8"]: ...
    @property
    def has_min(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

class ColumnMatrix:
    @staticmethod
    def pack(
        data: numpy.typing.NDArray[numpy.uint8],
        dtype: str,
        row_size: int,
        pool: ThreadPool,
        target: Literal["float32", "float16", "bfloat16", "q4", "q6", "q8"] | None = None,
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
    def planes(
        self,
    ) -> tuple[
        numpy.typing.NDArray[numpy.uint8],
        numpy.typing.NDArray[numpy.uint8] | None,
        numpy.typing.NDArray[numpy.uint8] | None,
    ]: ...
    def unpack(self) -> numpy.typing.NDArray[numpy.float32]: ...
    @property
    def format(self) -> Literal["float32", "float16", "bfloat16", "q4", "q6", "q8"]: ...
    @property
    def has_min(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

FIRST_INT8_POW2_LAYER: int = 12

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
        input_ids: numpy.typing.NDArray[numpy.int32],
        positions: numpy.typing.NDArray[numpy.int32],
        query_start_loc: numpy.typing.NDArray[numpy.int32],
        full_block_table: numpy.typing.NDArray[numpy.int32],
        sliding_block_table: numpy.typing.NDArray[numpy.int32],
        logit_rows: numpy.typing.NDArray[numpy.int32],
        logits: numpy.typing.NDArray[numpy.float32],
        on_layer: Callable[[int, numpy.typing.NDArray[numpy.float32]], None] | None = None,
    ) -> None: ...
    def times(self) -> dict[str, float]: ...
    def weight_bytes_per_token(self) -> float: ...

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
