"""Block types against the gguf library and, for four of them, a scalar decoder written from GGML's
block layouts (`ggml-common.h`) without looking at the library's."""

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.native.weights import stored_types
from nestling.weights.dequantize import dequantize
from nestling.weights.stored_tensor import StoredTensor, StoredTensors
from nestling.weights.stored_types import UNREAD_TYPES, stored_type
from tests.weights.tiny_files import encode

NUM_ROWS, ROW_SIZE = 48, 1536  # 73,728 elements: more than one chunk, the last one short
BLOCK_TYPES = tuple(stored.name for stored in stored_types() if stored.block_elements > 1)
QUANTISABLE = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")


def _half(raw: bytes) -> float:
    return float(struct.unpack("<e", raw)[0])


def _scalar_q8_0(block: bytes) -> list[float]:
    scale = _half(block[:2])
    return [scale * code for code in struct.unpack("<32b", block[2:])]


def _scalar_q4_0(block: bytes) -> list[float]:
    scale, codes = _half(block[:2]), block[2:]
    low = [scale * ((byte & 15) - 8) for byte in codes]
    return low + [scale * ((byte >> 4) - 8) for byte in codes]


def _scalar_q4_k(block: bytes) -> list[float]:
    scale, minimum = _half(block[:2]), _half(block[2:4])
    packed, codes = block[4:16], block[16:]
    values = []
    for group in range(8):
        if group < 4:
            group_scale, group_min = packed[group] & 63, packed[group + 4] & 63
        else:
            group_scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4
            group_min = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4
        for i in range(32):
            code = codes[32 * (group // 2) + i] >> (4 * (group % 2)) & 15
            values.append(scale * group_scale * code - minimum * group_min)
    return values


def _scalar_q6_k(block: bytes) -> list[float]:
    low, high = block[:128], block[128:192]
    scales = struct.unpack("<16b", block[192:208])
    scale = _half(block[208:])
    values = []
    for element in range(256):
        half, within = divmod(element, 128)
        quarter, i = divmod(within, 32)
        low_byte = low[64 * half + 32 * (quarter % 2) + i]
        bits = low_byte >> 4 if quarter >= 2 else low_byte & 15
        code = bits | (high[32 * half + i] >> (2 * quarter) & 3) << 4
        values.append(scale * scales[element // 16] * (code - 32))
    return values


SCALAR: dict[str, Callable[[bytes], list[float]]] = {
    "Q8_0": _scalar_q8_0,
    "Q4_0": _scalar_q4_0,
    "Q4_K": _scalar_q4_k,
    "Q6_K": _scalar_q6_k,
}


def _random_rows(dtype: str, seed: int = 3) -> NDArray[np.uint8]:
    """[NUM_ROWS, row_bytes]: quantised normals, or random blocks whose half scales are finite."""
    rng = np.random.default_rng(seed)
    if dtype in QUANTISABLE:
        values = rng.standard_normal((NUM_ROWS, ROW_SIZE), dtype=np.float32)
        return gguf.quantize(values, gguf.GGMLQuantizationType[dtype])
    stored = stored_type(dtype)
    num_blocks = NUM_ROWS * ROW_SIZE // stored.block_elements
    blocks = rng.integers(0, 256, (num_blocks, stored.block_bytes), dtype=np.uint8)
    scales_at = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2)}
    for at in scales_at.get(dtype, (0,)):
        scales = rng.uniform(-2, 2, num_blocks).astype("<f2")
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(NUM_ROWS, -1)


def _source(dtype: str, rows: NDArray[np.uint8]) -> StoredTensors:
    stored = StoredTensor(Path("x"), "w", dtype, (NUM_ROWS, ROW_SIZE), rows.reshape(-1))
    return StoredTensors(Path("x"), {"w": stored})


@pytest.mark.parametrize("dtype", BLOCK_TYPES)
def test_whole_tensor_equals_the_library(dtype: str) -> None:
    rows = _random_rows(dtype)
    expected = gguf.dequantize(rows, gguf.GGMLQuantizationType[dtype])
    actual = _source(dtype, rows).tensor("w")
    assert np.isfinite(expected).all()
    assert np.ptp(expected) > 1
    assert actual.flags.c_contiguous
    np.testing.assert_array_equal(actual, expected, strict=True)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", *BLOCK_TYPES])
def test_rows_are_those_of_the_whole_tensor(dtype: str) -> None:
    if dtype in BLOCK_TYPES:
        rows = _random_rows(dtype)
    else:
        rng = np.random.default_rng(4)
        values = rng.standard_normal((NUM_ROWS, ROW_SIZE), dtype=np.float32)
        rows = np.frombuffer(encode(values, dtype), np.uint8).reshape(NUM_ROWS, -1)
    source = _source(dtype, rows)
    index = np.array([47, 0, 3, 3, 20], np.int64)
    actual = source.rows("w", index)
    np.testing.assert_array_equal(actual, source.tensor("w")[index], strict=True)
    assert source.rows("w", index[:0]).shape == (0, ROW_SIZE)


@pytest.mark.parametrize("dtype", SCALAR)
def test_blocks_equal_a_scalar_decoder(dtype: str) -> None:
    rows = _random_rows(dtype)
    blocks = [row.tobytes() for row in rows.reshape(-1, stored_type(dtype).block_bytes)]
    expected = [value for block in blocks for value in SCALAR[dtype](block)]
    actual = dequantize(dtype, rows.reshape(-1))
    # The scalar decoder computes in float64: two float32 roundings of a product of three.
    np.testing.assert_allclose(actual, expected, rtol=3e-7, atol=3e-6)


def test_bf16_and_f16_widen_exactly() -> None:
    bits = np.array([0x3F80, 0xC049, 0x0001, 0x7F80, 0x8000], "<u2")
    bf16 = dequantize("BF16", bits.view(np.uint8))
    expected = [struct.unpack("<f", struct.pack("<I", int(b) << 16))[0] for b in bits]
    assert bf16.tolist() == expected
    halves = np.array([1.5, -0.25, 6e-8, 65504.0], "<f2")
    assert dequantize("F16", halves.view(np.uint8)).tolist() == halves.tolist()


def test_aligned_f32_is_a_view_and_unaligned_a_copy() -> None:
    raw = np.zeros(64, np.uint8)
    raw.flags.writeable = False
    aligned = dequantize("F32", raw[:32])
    assert np.shares_memory(aligned, raw)
    assert not aligned.flags.writeable
    unaligned = dequantize("F32", raw[1:33])
    assert unaligned.flags.aligned
    assert not np.shares_memory(unaligned, raw)


def test_infinite_scale_gives_infinite_weights_without_a_warning() -> None:
    block = np.zeros(34, np.uint8)
    block[1] = 0x7C  # f16 infinity
    block[2] = 1
    values = dequantize("Q8_0", block)
    assert values[0] == np.inf
    assert np.isnan(values[1])


def test_types_that_are_not_read_are_those_of_the_library() -> None:
    for stored in UNREAD_TYPES:
        library_type = gguf.GGMLQuantizationType[stored.name]
        sizes = (stored.block_elements, stored.block_bytes)
        assert (stored.ggml_type, sizes) == (library_type, gguf.GGML_QUANT_SIZES[library_type])
    assert not {stored.name for stored in UNREAD_TYPES} & {stored.name for stored in stored_types()}
