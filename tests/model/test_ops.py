"""The small operations against float64 formulas, and each row against itself alone."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.model import ops
from tests.model.tiny import bell

Array = ops.Array


def noise(*shape: int, seed: int = 0) -> Array:
    return bell(np.random.PCG64(seed), shape)


def test_rms_norm() -> None:
    x, weight = noise(3, 50), noise(50, seed=1)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 0.1) * weight
    np.testing.assert_allclose(ops.rms_norm(x, weight, 0.1), expected, rtol=2e-6, atol=1e-7)


def test_rms_norm_of_nothing_is_nothing() -> None:
    zeros = np.zeros((2, 8), np.float32)
    np.testing.assert_array_equal(ops.rms_norm(zeros, noise(8), 1e-6), zeros)


def test_gelu_tanh() -> None:
    x = np.linspace(-8, 8, 401, dtype=np.float32)
    expected = [
        0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
        for v in x.tolist()
    ]
    np.testing.assert_allclose(ops.gelu_tanh(x), expected, rtol=1e-5, atol=1e-6)


def test_gaussian_topk_shifts_the_survivors() -> None:
    x = noise(4, 4000)
    out = ops.gaussian_topk(x, 1.6448535919189453)
    wide = x.astype(np.float64)
    cutoff = wide.mean(-1, keepdims=True) + 1.6448535919189453 * wide.std(-1, keepdims=True)
    np.testing.assert_allclose(out, np.maximum(wide - cutoff, 0), atol=2e-6)
    assert 0.03 < (out > 0).mean() < 0.07


def test_match_magnitude_has_a_floor_under_its_divisor() -> None:
    x = noise(2, 64)
    magnitude = np.array([[3.0], [0.5]], np.float32)
    matched = ops.match_magnitude(x.copy(), magnitude)
    np.testing.assert_allclose(np.sqrt(ops.mean_square(matched)), magnitude, rtol=1e-6)
    tiny = np.full((1, 4), 1e-4, np.float32)
    expected = tiny / math.sqrt(1e-5)
    np.testing.assert_allclose(
        ops.match_magnitude(tiny.copy(), np.ones((1, 1), np.float32)), expected
    )


@pytest.mark.parametrize("base", [1e4, 1e6])
def test_rotation_turns_pairs_by_position_times_frequency(base: float) -> None:
    head_dim, positions = 8, np.array([0, 1, 700, 513], np.int32)
    x = noise(4, 2, head_dim)
    out = ops.rotate(x, *ops.RopeTable(base, head_dim).rows(positions))
    np.testing.assert_array_equal(out[0], x[0])
    for row, position in enumerate(positions.tolist()):
        for pair in range(head_dim // 2):
            turn = np.exp(1j * position * base ** (-2 * pair / head_dim))
            expected = (x[row, :, pair] + 1j * x[row, :, pair + head_dim // 2]) * turn
            # Angles are float32: at position 700 they are good to 700 * 6e-8.
            np.testing.assert_allclose(out[row, :, pair], expected.real, atol=3e-4)
            np.testing.assert_allclose(out[row, :, pair + head_dim // 2], expected.imag, atol=3e-4)


def test_rope_rows_do_not_depend_on_what_was_asked_before() -> None:
    grown, fresh = ops.RopeTable(1e4, 16), ops.RopeTable(1e4, 16)
    for position in (0, 511, 512, 3000):
        grown.rows(np.array([position], np.int32))
    positions = np.array([3000, 7, 1500], np.int32)
    for ours, theirs in zip(grown.rows(positions), fresh.rows(positions), strict=True):
        np.testing.assert_array_equal(ours, theirs)


WEIGHT = noise(301, seed=2)
ROW_WISE: dict[str, Callable[[Array], Array]] = {
    "mean_square": ops.mean_square,
    "rms_norm": lambda x: ops.rms_norm(x, WEIGHT[: x.shape[-1]], 1e-6),
    "gelu_tanh": ops.gelu_tanh,
    "gaussian_topk": lambda x: ops.gaussian_topk(x, 1.6),
    "match_magnitude": lambda x: ops.match_magnitude(x.copy(), np.ones((1, 1), np.float32)),
    "tanh": np.tanh,
}


def test_long_rows_do_not_depend_on_their_neighbours_either() -> None:
    x = noise(3, 16_384)
    together = ops.mean_square(x)
    np.testing.assert_allclose(together[:, 0], (x.astype(np.float64) ** 2).mean(-1), rtol=1e-6)
    for row in range(3):
        np.testing.assert_array_equal(ops.mean_square(x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("name", ROW_WISE)
@settings(max_examples=15, derandomize=True)
@given(num_rows=st.integers(2, 40), width=st.integers(1, 300), stride=st.integers(1, 3))
def test_a_row_does_not_depend_on_its_neighbours(
    name: str, num_rows: int, width: int, stride: int
) -> None:
    """Also for rows cut out of wider ones, as the gate and the active stream are."""
    x = noise(num_rows, width * stride, seed=width)[:, :width]
    together = ROW_WISE[name](x)
    for row in range(num_rows):
        np.testing.assert_array_equal(ROW_WISE[name](x[row : row + 1])[0], together[row])
