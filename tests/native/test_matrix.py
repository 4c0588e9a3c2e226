"""Packed weights hold the values of the stored ones, in every form, format and odd shape."""

from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.native.system import ThreadPool
from nestling.native.weights import ColumnMatrix, Matrix, RowMatrix
from tests.native.stored_blocks import (
    BLOCKS_OF_32,
    PLAIN,
    TYPES,
    library_values,
    random_bytes,
)

Floats = NDArray[np.float32]
FORMS: tuple[Any, ...] = (Matrix, RowMatrix, ColumnMatrix)
NATURAL = dict(zip(PLAIN, ("float32", "float16", "bfloat16"), strict=True)) | {
    "Q4_0": "q4", "Q4_1": "q4", "Q4_K": "q4", "Q8_0": "q8", "Q5_0": "q8", "Q5_1": "q8",
    "Q5_K": "q8", "IQ4_NL": "q8", "IQ4_XS": "q8", "Q2_K": "q8", "Q3_K": "q8", "Q6_K": "q8",
}  # fmt: skip
"""But `Matrix` holds Q3_K and Q6_K as "q6"."""
SIX_BITS = ("Q3_K", "Q6_K")
SHAPES = [(1, 256), (17, 256), (16, 2048), (150, 512), (33, 2304)]
SMALL_SHAPES = [(1, 32), (17, 96), (130, 160), (31, 288)]
CASES = [(t, s) for t in TYPES for s in SHAPES] + [
    (t, s) for t in (*PLAIN, *BLOCKS_OF_32) for s in SMALL_SHAPES
]
MOVED = (*BLOCKS_OF_32, "Q4_K", "Q5_K", "IQ4_XS")


@pytest.fixture(scope="module")
def pool() -> ThreadPool:
    return ThreadPool(3)


def natural(form: Any, dtype: str) -> str:
    return "q6" if form is Matrix and dtype in SIX_BITS else NATURAL[dtype]


def half_rounded(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)


def quantized_q8(values: Floats) -> Floats:
    """Symmetric codes in groups of 32 with the f16 scale that they are multiplied by."""
    num_rows, row_size = values.shape
    groups = np.pad(values, ((0, 0), (0, -row_size % 32))).reshape(num_rows, -1, 32)
    largest = np.abs(groups).max(axis=2, keepdims=True)
    scale = half_rounded(largest / np.float32(127))
    divisor = np.where(scale > 0, scale, np.float32(1))
    codes = np.clip(np.rint(groups / divisor), -127, 127) * (scale > 0)
    values = (scale * codes).astype(np.float32).reshape(num_rows, -1)
    return values[:, :row_size]


def k_quant_with_half_scales(data: NDArray[np.uint8], dtype: str, row_size: int) -> Floats:
    """Codes of Q4_K, Q5_K or IQ4_XS times the group's scale in f16, plus its minimum in f16.

    Code, scale and minimum are found from the library's values of edited blocks: without the
    minimum's factor, and with every code 0.
    """
    exact = library_values(data, dtype, row_size).reshape(-1, 32)
    blocks = data.reshape(-1, {"Q4_K": 144, "Q5_K": 176, "IQ4_XS": 136}[dtype])
    minimum = np.zeros((len(exact), 1), np.float32)
    codes_at = 8 if dtype == "IQ4_XS" else 16
    lowest = blocks.copy()
    lowest[:, codes_at:] = 0
    if dtype != "IQ4_XS":
        minimum = library_values(lowest.reshape(-1), dtype, row_size).reshape(-1, 32)[:, :1]
        without = lowest.copy()
        without[:, 2:4] = 0
        without[:, codes_at:] = 0x11 if dtype == "Q4_K" else 0
        if dtype == "Q5_K":
            without[:, 48:] = 0x11
        scale = library_values(without.reshape(-1), dtype, row_size).reshape(-1, 32)[:, :1]
    else:  # code 8 of the table stands for 1
        lowest[:, codes_at:] = 0x88
        scale = library_values(lowest.reshape(-1), dtype, row_size).reshape(-1, 32)[:, :1]
    divisor = np.where(scale == 0, np.float32(1), scale)
    codes = np.rint((exact - minimum) / divisor)
    values: Floats = half_rounded(scale) * codes + half_rounded(minimum)
    return values.reshape(-1, row_size)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "shape"), CASES)
def test_natural_formats_hold_the_stored_values(
    pool: ThreadPool, form: Any, dtype: str, shape: tuple[int, int]
) -> None:
    data = random_bytes(dtype, *shape, seed=shape[0])
    packed = form.pack(data, dtype, shape[1], pool)
    assert packed.format == natural(form, dtype)
    assert packed.has_min == (dtype in {"Q4_1", "Q5_1", "Q4_K", "Q5_K"})
    assert packed.shape == shape
    expected = library_values(data, dtype, shape[1])
    if dtype in {"Q4_K", "Q5_K", "IQ4_XS"}:
        expected = k_quant_with_half_scales(data, dtype, shape[1])
    elif dtype not in MOVED and dtype not in PLAIN and packed.format != "q6":
        expected = quantized_q8(expected)
    np.testing.assert_array_equal(packed.unpack(), expected, strict=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["Q4_K", "Q5_K", "IQ4_XS"])
def test_half_scales_change_k_quants_by_a_rounding(pool: ThreadPool, form: Any, dtype: str) -> None:
    """Against the exact values: 2^-11 of the largest product and of the minimum."""
    data = random_bytes(dtype, 20, 512, seed=4)
    exact = library_values(data, dtype, 512).reshape(-1, 32)
    actual = form.pack(data, dtype, 512, pool).unpack().reshape(-1, 32)
    bound = 2.0**-11 * (np.ptp(exact, axis=1) + 2 * np.abs(exact).max(axis=1)) + 1e-6
    assert (np.abs(actual - exact).max(axis=1) <= bound).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(17, 256), (130, 512)])
def test_any_type_becomes_any_float_format(
    pool: ThreadPool, form: Any, dtype: str, shape: tuple[int, int]
) -> None:
    data = random_bytes(dtype, *shape, seed=5)
    values = library_values(data, dtype, shape[1])
    bfloat16 = gguf.dequantize(
        gguf.quantize(values, gguf.GGMLQuantizationType.BF16), gguf.GGMLQuantizationType.BF16
    )
    expected = {"float32": values, "float16": half_rounded(values), "bfloat16": bfloat16}
    for name, wanted in expected.items():
        packed = form.pack(data, dtype, shape[1], pool, name)
        assert packed.format == name
        np.testing.assert_array_equal(packed.unpack(), wanted, strict=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 256), (47, 768)])
def test_any_type_is_quantised_as_ggml_would(
    pool: ThreadPool, form: Any, dtype: str, shape: tuple[int, int]
) -> None:
    data = random_bytes(dtype, *shape, seed=6)
    values = library_values(data, dtype, shape[1])
    if natural(form, dtype) != "q8":
        packed = form.pack(data, dtype, shape[1], pool, "q8")
        np.testing.assert_array_equal(packed.unpack(), quantized_q8(values), strict=True)
    if NATURAL[dtype] != "q4":
        q4_0 = gguf.GGMLQuantizationType.Q4_0
        packed = form.pack(data, dtype, shape[1], pool, "q4")
        expected = gguf.dequantize(gguf.quantize(values, q4_0), q4_0)
        np.testing.assert_array_equal(packed.unpack(), expected, strict=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "q4", "q8"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 16), (16, 4), (65, 100), (5, 300)])
def test_float_matrices_of_any_width(
    pool: ThreadPool, form: Any, name: Any, shape: tuple[int, int]
) -> None:
    values = np.random.default_rng(7).standard_normal(shape, dtype=np.float32)
    packed = form.pack(values.view(np.uint8).reshape(-1), "F32", shape[1], pool, name)
    actual = packed.unpack()
    if name == "q8":
        np.testing.assert_array_equal(actual, quantized_q8(values), strict=True)
    else:  # a group's step is an eighth of its largest value; f16 and bf16 are far below
        step = {"float32": 0.0, "float16": 1e-3, "bfloat16": 1e-2, "q4": 0.126}[name]
        assert np.abs(actual - values).max() <= step * np.abs(values).max()


def test_the_thread_count_does_not_change_a_byte(pool: ThreadPool) -> None:
    data = random_bytes("Q4_0", 700, 2048, seed=8)
    for form in FORMS:
        alone = form.pack(data, "Q4_0", 2048, ThreadPool(1)).unpack()
        np.testing.assert_array_equal(form.pack(data, "Q4_0", 2048, pool).unpack(), alone)


@pytest.mark.parametrize("form", FORMS)
def test_sizes_are_those_of_the_layout(pool: ThreadPool, form: Any) -> None:
    data = random_bytes("Q4_1", 17, 96, seed=1)
    packed = form.pack(data, "Q4_1", 96, pool)
    elements = {Matrix: 32 * 96, RowMatrix: 17 * 512, ColumnMatrix: 32 * 96}[form]
    assert packed.nbytes == elements // 2 + elements // 32 * 4


def test_six_bits_take_what_the_file_takes(pool: ThreadPool) -> None:
    packed = Matrix.pack(random_bytes("Q6_K", 32, 512, seed=1), "Q6_K", 512, pool)
    assert packed.nbytes == 32 * 512 * 210 // 256


@pytest.mark.parametrize("shape", [(1, 256), (50, 1024)])
@pytest.mark.parametrize("dtype", SIX_BITS)
def test_six_bits_keep_any_scale_and_code(
    pool: ThreadPool, dtype: str, shape: tuple[int, int]
) -> None:
    """Bit for bit as the library decodes them, zeros of either sign and subnormal scales too."""
    halves = np.array([0, 0x8000, 1, 0x83FF, 0x03FF, 0x7BFF, 0xFBFF, 0x3C01], "<u2").view("<f2")
    data = random_bytes(dtype, *shape, seed=9, halves=halves)
    actual = Matrix.pack(data, dtype, shape[1], pool).unpack()
    expected = library_values(data, dtype, shape[1])
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TYPES)
def test_only_tiles_of_q3_k_and_q6_k_become_six_bits(
    pool: ThreadPool, form: Any, dtype: str
) -> None:
    data = random_bytes(dtype, 3, 256, seed=1)
    if form is Matrix and dtype in SIX_BITS:
        assert form.pack(data, dtype, 256, pool, "q6").format == "q6"
        return
    with pytest.raises(ValueError, match="format: expected another than q6"):
        form.pack(data, dtype, 256, pool, "q6")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q4", "q8"])
def test_a_group_that_is_not_finite_stays_not_finite(
    pool: ThreadPool, form: Any, bad: float, name: Any
) -> None:
    values = np.ones((4, 64), np.float32)
    values[1, 40] = bad
    actual = form.pack(values.view(np.uint8).reshape(-1), "F32", 64, pool, name).unpack()
    assert not np.isfinite(actual[1, 32:]).any()
    assert np.isfinite(actual[[0, 2, 3]]).all()
    assert np.isfinite(actual[1, :32]).all()


@pytest.mark.parametrize("form", FORMS)
def test_bad_arguments_are_named(pool: ThreadPool, form: Any) -> None:
    data = np.zeros(36, np.uint8)
    with pytest.raises(ValueError, match=r'target: expected "float32", .* got "q5"'):
        form.pack(data, "Q4_0", 32, pool, "q5")
    with pytest.raises(ValueError, match="weight: expected a matrix that is neither empty"):
        form.pack(data[:0], "Q4_0", 32, pool)
    with pytest.raises(ValueError, match="data: expected whole rows of 18 bytes, got 35"):
        form.pack(data[:35], "Q4_0", 32, pool)
    with pytest.raises(ValueError, match=r'dtype: expected one of F32, .* got "IQ1_S"'):
        form.pack(data, "IQ1_S", 32, pool)
