"""The packed linear kernel against numpy, and its promise of the same bits in every batch."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nestling.native import _core
from nestling.native.linear import PackedLinear, linear
from nestling.native.threads import ThreadPool

VARIANTS = _core.variants()
DTYPES: tuple[Any, ...] = ("float32", "bfloat16")
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def pool() -> ThreadPool:
    return ThreadPool(3)


def as_bfloat16(values: Floats) -> Floats:
    """Rounded to nearest even by integer arithmetic on the bits; finite values only."""
    bits = values.view(np.uint32).astype(np.uint64)
    bits += 0x7FFF + ((bits >> 16) & 1)
    return (bits & 0xFFFF0000).astype(np.uint32).view(np.float32)


def random_case(seed: int, num_rows: int, num_out: int, num_in: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, num_in)).astype(np.float32)
    return x, rng.normal(size=(num_out, num_in)).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_rows=st.integers(0, 60),
    num_out=st.integers(1, 90),
    num_in=st.integers(1, 130),
    dtype=st.sampled_from(DTYPES),
    variant=st.sampled_from(VARIANTS),
)
def test_agrees_with_float64(
    pool: ThreadPool,
    seed: int,
    num_rows: int,
    num_out: int,
    num_in: int,
    dtype: Any,
    variant: Any,
) -> None:
    """Tolerance: num_in roundings of 2^-24 relative to the sum of the products' sizes."""
    x, weight = random_case(seed, num_rows, num_out, num_in)
    packed = PackedLinear.pack(weight, dtype)
    exact = weight if dtype == "float32" else as_bfloat16(weight)
    got = _core.linear(x, packed, pool, variant)
    expected = x.astype(np.float64) @ exact.T.astype(np.float64)
    sizes = np.abs(x).astype(np.float64) @ np.abs(exact).T.astype(np.float64)
    assert got.shape == (num_rows, num_out)
    assert got.dtype == np.float32
    assert np.all(np.abs(got - expected) <= (num_in + 1) * 2.0**-24 * sizes)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_in_every_batch(dtype: Any, variant: Any) -> None:
    """Batches of 1 to 33 and of 101 rows, 1 to 4 threads, and rows that start at any address."""
    x, weight = random_case(1, 101, 151, 203)
    packed = PackedLinear.pack(weight, dtype)
    pools = [ThreadPool(n) for n in (1, 2, 4)]
    alone = np.concatenate(
        [_core.linear(x[r : r + 1], packed, pools[0], variant) for r in range(101)]
    )
    for num_rows in (*range(1, 34), 101):
        for pool in pools:
            for first in (0, 101 - num_rows):
                rows = slice(first, first + num_rows)
                got = _core.linear(x[rows], packed, pool, variant)
                assert got.tobytes() == alone[rows].tobytes()
    for shift in range(1, 9):
        shifted = np.empty(x.size + shift, np.float32)[shift:].reshape(x.shape)
        shifted[:] = x
        assert _core.linear(shifted, packed, pools[1], variant).tobytes() == alone.tobytes()


@pytest.mark.parametrize("variant", VARIANTS)
def test_work_large_enough_for_all_threads_has_the_same_bits(variant: Any) -> None:
    x, weight = random_case(2, 50, 1500, 1040)
    packed = PackedLinear.pack(weight, "bfloat16")
    one, four = (_core.linear(x, packed, ThreadPool(n), variant) for n in (1, 4))
    assert one.tobytes() == four.tobytes()
    few = _core.linear(x[:1], packed, ThreadPool(4), variant)
    assert few.tobytes() == one[:1].tobytes()


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_rounds_to_nearest_even_and_widens_exactly(pool: ThreadPool, variant: Any) -> None:
    """An identity matrix reads the packed weights back."""
    one_and_halves = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF], np.uint32)
    special = np.array(
        [0.0, -0.0, 1e-40, -1e-40, 3.3895e38, -65504.0, 1e-38, 2.0**-126], np.float32
    )
    rng = np.random.default_rng(4)
    values = np.concatenate([one_and_halves.view(np.float32), special, rng.normal(size=52)])
    weight = np.ascontiguousarray(values.astype(np.float32).reshape(8, 8))
    packed = PackedLinear.pack(weight, "bfloat16")
    back = _core.linear(np.eye(8, dtype=np.float32), packed, pool, variant).T
    np.testing.assert_array_equal(back, as_bfloat16(weight))


@pytest.mark.parametrize("variant", VARIANTS)
def test_overflow_and_nan_stay_visible(pool: ThreadPool, variant: Any) -> None:
    weight = np.array([[3.4e38], [np.inf], [np.nan], [1.0]], np.float32)
    got = _core.linear(
        np.ones((1, 1), np.float32), PackedLinear.pack(weight, "bfloat16"), pool, variant
    )
    assert np.isinf(got[0, :2]).all()
    assert np.isnan(got[0, 2])
    assert got[0, 3] == 1


def test_the_wrapper_uses_the_fastest_variant(pool: ThreadPool) -> None:
    x, weight = random_case(5, 3, 40, 50)
    packed = PackedLinear.pack(weight, "float32")
    assert (
        linear(x, packed, pool).tobytes() == _core.linear(x, packed, pool, VARIANTS[-1]).tobytes()
    )


def test_packed_describes_itself() -> None:
    weight = np.zeros((33, 7), np.float32)
    for dtype, width in zip(DTYPES, (4, 2), strict=True):
        packed = PackedLinear.pack(weight, dtype)
        assert (packed.out_features, packed.in_features, packed.dtype) == (33, 7, dtype)
        assert packed.nbytes == 48 * 7 * width


def test_packing_copies_and_takes_read_only_arrays(pool: ThreadPool) -> None:
    x, weight = random_case(6, 2, 20, 30)
    weight.flags.writeable = False
    x.flags.writeable = False
    packed = PackedLinear.pack(weight, "float32")
    before = linear(x, packed, pool)
    del weight
    assert linear(x, packed, pool).tobytes() == before.tobytes()


def test_what_does_not_fit_is_refused(pool: ThreadPool) -> None:
    x, weight = random_case(7, 4, 20, 30)
    packed = PackedLinear.pack(weight, "float32")
    with pytest.raises(ValueError, match="dtype"):
        PackedLinear.pack(weight, "float16")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weight: expected float32"):
        PackedLinear.pack(weight.astype(np.float64), "float32")
    with pytest.raises(ValueError, match=r"weight: .* empty"):
        PackedLinear.pack(np.zeros((0, 3), np.float32), "float32")
    with pytest.raises(ValueError, match=r"weight: .*contiguous"):
        PackedLinear.pack(weight.T, "float32")
    with pytest.raises(ValueError, match=r"in_features.*expected 30, got 20"):
        linear(np.zeros((4, 20), np.float32), packed, pool)
    with pytest.raises(ValueError, match="x: expected float32"):
        linear(x[0], packed, pool)
    with pytest.raises(TypeError, match="x: expected float32"):
        linear(x.astype(np.int32), packed, pool)
    with pytest.raises(ValueError, match="contiguous"):
        linear(x[:, ::-1], packed, pool)
    odd_address = np.frombuffer(bytes(4 * 30 * 4 + 1), np.uint8)[1:].view(np.float32)
    with pytest.raises(ValueError, match="aligned"):
        linear(odd_address.reshape(4, 30), packed, pool)
    with pytest.raises(ValueError, match="variant"):
        _core.linear(x, packed, pool, "sse9")  # type: ignore[arg-type]


@pytest.mark.parametrize("num_threads", [0, -1, 257])
def test_a_pool_needs_a_sensible_number_of_threads(num_threads: int) -> None:
    with pytest.raises(ValueError, match=f"num_threads: expected 1 to 256, got {num_threads}"):
        ThreadPool(num_threads)


def test_one_pool_serves_several_python_threads() -> None:
    pool = ThreadPool(2)
    x, weight = random_case(8, 8, 400, 300)
    packed = PackedLinear.pack(weight, "float32")
    expected = linear(x, packed, pool).tobytes()
    with ThreadPoolExecutor(4) as executor:
        results = list(executor.map(lambda _: linear(x, packed, pool).tobytes(), range(100)))
    assert set(results) == {expected}
