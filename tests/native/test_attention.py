"""The attention kernel against numpy, its batch invariance, and the checks that guard memory."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nestling.native import _core
from nestling.native.attention import attention
from nestling.native.threads import ThreadPool

VARIANTS = _core.variants()
POOLS = [ThreadPool(n) for n in (1, 3)]


def random_case(
    seed: int, num_rows: int, heads: tuple[int, int], head_dim: int, num_slots: int
) -> dict[str, NDArray[Any]]:
    """Arguments of `attention`; ranges of any length above 0 over shuffled, repeated slots."""
    rng = np.random.default_rng(seed)
    num_kv_heads, group = heads
    slots = rng.integers(0, num_slots, size=2 * num_slots)
    row_begin = rng.integers(0, len(slots), size=num_rows)
    row_end = rng.integers(row_begin + 1, len(slots) + 1)

    def floats(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    return {
        "q": floats(num_rows, num_kv_heads * group, head_dim),
        "k_cache": floats(num_slots, num_kv_heads, head_dim),
        "v_cache": floats(num_slots, num_kv_heads, head_dim),
        "slots": slots,
        "row_begin": row_begin,
        "row_end": row_end,
    }


def oracle(case: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    q = case["q"].astype(np.float64)
    group = q.shape[1] // case["k_cache"].shape[1]
    out = np.zeros_like(q)
    for r in range(len(q)):
        seen = case["slots"][case["row_begin"][r] : case["row_end"][r]]
        for h in range(q.shape[1]):
            scores = case["k_cache"][seen, h // group].astype(np.float64) @ q[r, h]
            weights = np.exp(scores - scores.max())
            out[r, h] = weights @ case["v_cache"][seen, h // group] / weights.sum()
    return out


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_rows=st.integers(0, 12),
    heads=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    head_dim=st.sampled_from([1, 7, 16, 32, 64, 80, 100, 256]),
    num_slots=st.integers(1, 70),
    variant=st.sampled_from(VARIANTS),
)
def test_agrees_with_float64(
    seed: int,
    num_rows: int,
    heads: tuple[int, int],
    head_dim: int,
    num_slots: int,
    variant: Any,
) -> None:
    """Tolerance: scores of up to about 50, rounded at 2^-24 each, move weights by 1e-5."""
    case = random_case(seed, num_rows, heads, head_dim, num_slots)
    got = _core.attention(**case, pool=POOLS[1], variant=variant)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, oracle(case), atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head_dim", [24, 256])
def test_a_row_depends_on_its_own_data_alone_to_the_bit(variant: Any, head_dim: int) -> None:
    case = random_case(1, 33, (2, 4), head_dim, 300)
    together = [_core.attention(**case, pool=pool, variant=variant) for pool in POOLS]
    assert together[0].tobytes() == together[1].tobytes()
    for r in range(33):
        begin, end = case["row_begin"][r], case["row_end"][r]
        seen = case["slots"][begin:end]
        alone = {
            "q": case["q"][r : r + 1],
            "k_cache": np.ascontiguousarray(case["k_cache"][seen]),
            "v_cache": np.ascontiguousarray(case["v_cache"][seen]),
            "slots": np.arange(len(seen)),
            "row_begin": np.array([0]),
            "row_end": np.array([len(seen)]),
        }
        got = _core.attention(**alone, pool=POOLS[1], variant=variant)
        assert got.tobytes() == together[0][r : r + 1].tobytes()


@pytest.mark.parametrize("variant", VARIANTS)
def test_large_scores_do_not_overflow(variant: Any) -> None:
    case = random_case(2, 4, (1, 2), 64, 20)
    case["q"] *= 1e4
    got = _core.attention(**case, pool=POOLS[0], variant=variant)
    np.testing.assert_allclose(got, oracle(case), atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_spreads_to_its_own_head_only(variant: Any) -> None:
    case = random_case(3, 3, (1, 2), 32, 10)
    case["q"][1, 0, 5] = np.nan
    got = _core.attention(**case, pool=POOLS[0], variant=variant)
    assert np.isnan(got[1, 0]).all()
    got[1, 0] = 0
    assert np.isfinite(got).all()


def test_one_key_gives_its_value() -> None:
    case = random_case(4, 5, (2, 2), 16, 9)
    case["row_end"] = case["row_begin"] + 1
    got = attention(**case, pool=POOLS[0])
    seen = case["slots"][case["row_begin"]]
    np.testing.assert_array_equal(got, np.repeat(case["v_cache"][seen], 2, axis=1))


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("slots", 3, -1),
        ("slots", 0, 10),
        ("slots", 5, 2**62),
        ("row_begin", 2, -1),
        ("row_begin", 1, 20),
        ("row_end", 2, 21),
        ("row_end", 0, 0),
        ("row_end", 1, -(2**62)),
    ],
)
def test_an_index_outside_its_array_is_refused(name: str, index: int, value: int) -> None:
    case = random_case(5, 3, (1, 1), 8, 10)
    case[name][index] = value
    expected = r"slots\[" if name == "slots" else r"row_begin\[\d\], row_end\["
    with pytest.raises(IndexError, match=expected):
        attention(**case, pool=POOLS[0])


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("q", lambda a: a.astype(np.float64), TypeError),
        ("q", lambda a: a[:, :, ::-1], ValueError),
        ("q", lambda a: a[:, :3].copy(), ValueError),
        ("q", lambda a: a[:, :0].copy(), None),
        ("k_cache", lambda a: a[:, :, :4].copy(), ValueError),
        ("k_cache", lambda a: a[:, :0].copy(), ValueError),
        ("v_cache", lambda a: a[:5].copy(), ValueError),
        ("v_cache", lambda a: a[0], ValueError),
        ("slots", lambda a: a.astype(np.int32), TypeError),
        ("row_begin", lambda a: a[:2].copy(), ValueError),
        ("row_end", lambda a: a.astype(np.float64), TypeError),
    ],
)
def test_an_array_that_does_not_fit_is_named(name: str, change: Any, error: Any) -> None:
    case = random_case(6, 3, (2, 2), 8, 10)
    case[name] = change(case[name])
    if error is None:
        assert attention(**case, pool=POOLS[0]).shape == case[name].shape
        return
    with pytest.raises(error, match="k_cache|v_cache" if name == "k_cache" else name):
        attention(**case, pool=POOLS[0])
