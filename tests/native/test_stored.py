"""Stored rows against the `gguf` library, bit for bit."""

import gguf
import numpy as np
import pytest

from nestling.native.system import ThreadPool
from nestling.native.weights import decode_rows, encode_rows, stored_types
from tests.native.stored_blocks import TYPES, block_layout, library_values, random_bytes

EXTREME = np.array(
    [0.0, -0.0, 65504.0, -65504.0, 6e-8, -6e-8, 6.1e-5, np.inf, -np.inf, np.nan], "<f2"
)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("num_rows", "row_size"), [(1, 256), (5, 2048), (48, 1536)])
def test_rows_equal_the_library(dtype: str, num_rows: int, row_size: int) -> None:
    data = random_bytes(dtype, num_rows, row_size, seed=num_rows)
    expected = library_values(data, dtype, row_size)
    assert np.isfinite(expected).all()
    assert np.ptp(expected) > 1
    index = np.array([num_rows - 1, *range(num_rows), 0], np.int64)
    actual = decode_rows(data, dtype, row_size, index)
    assert actual.view(np.uint32).tolist() == expected[index].view(np.uint32).tolist()


@pytest.mark.parametrize("dtype", TYPES[3:])
def test_extreme_scales_equal_the_library(dtype: str) -> None:
    data = random_bytes(dtype, 40, 256, seed=9, halves=EXTREME)
    actual = decode_rows(data, dtype, 256, np.arange(40))
    np.testing.assert_array_equal(actual, library_values(data, dtype, 256), strict=True)


def test_every_half_and_bfloat16_widens_as_in_the_library() -> None:
    bits = np.arange(1 << 16, dtype="<u2")
    for dtype in ("F16", "BF16"):
        actual = decode_rows(bits.view(np.uint8), dtype, 1 << 16, np.zeros(1, np.int64))
        expected = library_values(bits.view(np.uint8), dtype, 1 << 16)
        np.testing.assert_array_equal(actual, expected, strict=True)


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_need_no_alignment(dtype: str) -> None:
    elements, _ = block_layout(dtype)
    data = random_bytes(dtype, 3, elements * 2, seed=1)
    shifted = np.empty(data.size + 1, np.uint8)[1:]
    shifted[:] = data
    index = np.array([2, 0], np.int64)
    np.testing.assert_array_equal(
        decode_rows(shifted, dtype, elements * 2, index),
        library_values(data, dtype, elements * 2)[index],
    )


def test_no_rows_are_no_rows() -> None:
    assert decode_rows(np.zeros(8, np.uint8), "F32", 2, np.empty(0, np.int64)).shape == (0, 2)


@pytest.mark.parametrize(
    ("num_bytes", "dtype", "row_size", "index", "error", "reason"),
    [
        (18, "Q9_9", 32, 0, ValueError, 'dtype: expected one of F32, .*, got "Q9_9"'),
        (18, "Q4_0", 0, 0, ValueError, "row_size: expected a multiple of the 32 .* got 0"),
        (18, "Q4_0", 33, 0, ValueError, "row_size: expected a multiple of the 32 .* got 33"),
        (18, "Q4_0", 1 << 60, 0, ValueError, "row_size: expected"),
        (35, "Q4_0", 32, 0, ValueError, "data: expected whole rows of 18 bytes, got 35"),
        (18, "Q4_0", 32, 1, IndexError, r"index\[0\]: expected 0 to 1 .* got 1"),
        (18, "Q4_0", 32, -1, IndexError, r"index\[0\]: expected 0 to 1 .* got -1"),
    ],
)
def test_bad_arguments_are_named(
    num_bytes: int, dtype: str, row_size: int, index: int, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        decode_rows(np.zeros(num_bytes, np.uint8), dtype, row_size, np.array([index]))


@pytest.mark.parametrize("dtype", ["F32", "F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 0.02, 1.0, 60_000.0])
def test_encoded_rows_equal_the_library(dtype: str, scale: float) -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_normal((300, 512), dtype=np.float32).clip(-1, 1) * np.float32(scale)
    values[7], values[8, ::2], values[9] = 0, 0, values[9, 0]
    values[10] = np.arange(512) * scale / 512  # codes half-way between two
    values[11, :4] = 127, 0.5, np.nextafter(np.float32(0.5), np.float32(0)), -2.5
    expected = gguf.quantize(values, gguf.GGMLQuantizationType[dtype])
    actual = encode_rows(values, dtype, ThreadPool(3))
    np.testing.assert_array_equal(actual, expected.view(np.uint8))


def test_bad_arguments_of_encode_rows_are_named() -> None:
    pool = ThreadPool(1)
    with pytest.raises(ValueError, match="values: expected rows of a multiple of 32 elements"):
        encode_rows(np.zeros((1, 16), np.float32), "Q4_0", pool)
    with pytest.raises(ValueError, match="dtype: expected F32, F16, Q8_0 or Q4_0"):
        encode_rows(np.zeros((1, 256), np.float32), "Q4_K", pool)


def test_names_codes_and_blocks_are_those_of_the_library() -> None:
    types = stored_types()
    assert {stored.name for stored in types} == set(TYPES)
    for stored in types:
        assert stored.ggml_type == gguf.GGMLQuantizationType[stored.name]
        assert (stored.block_elements, stored.block_bytes) == block_layout(stored.name)
