"""The C++ core against the numpy oracle, through the protocol the decoder uses."""

import numpy as np
import pytest

from nestling.model.kernels import NativeKernels, NumpyKernels
from tests.model.tiny import bell


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return bell(np.random.PCG64(seed), shape)


@pytest.mark.parametrize(("num_rows", "num_out", "num_in"), [(1, 4, 4), (3, 70, 33), (20, 16, 256)])
def test_linear(num_rows: int, num_out: int, num_in: int) -> None:
    native, oracle = NativeKernels(2), NumpyKernels()
    weight, x = noise(num_out, num_in), noise(num_rows, num_in, seed=1)
    ours = native.linear(x, native.pack(weight))
    theirs = oracle.linear(x, oracle.pack(weight))
    assert ours.shape == (num_rows, num_out)
    # Partial sums reach 4 sqrt(n); each of n additions rounds by 6e-8 of them, mostly cancelling.
    np.testing.assert_allclose(ours, theirs, atol=4 * num_in * 6e-8 + 1e-6, rtol=0)


def test_packing_as_bfloat16_only_where_it_is_exact() -> None:
    kernels = NativeKernels(1)
    weight = noise(32, 16)
    rounded = (weight.view(np.uint32) & 0xFFFF0000).view(np.float32)
    assert kernels.pack(rounded).dtype == "bfloat16"
    almost = rounded.copy()
    almost[31, 15] = weight[31, 15]
    assert almost[31, 15] != rounded[31, 15]
    assert kernels.pack(almost).dtype == "float32"
    identity = np.eye(16, dtype=np.float32)
    np.testing.assert_array_equal(kernels.linear(identity, kernels.pack(rounded)), rounded.T)


def test_attention_sees_exactly_its_range_of_slots() -> None:
    native, oracle = NativeKernels(2), NumpyKernels()
    q = noise(5, 6, 12)
    keys, values = noise(30, 2, 12, seed=1), noise(30, 2, 12, seed=2)
    slots = np.random.Generator(np.random.PCG64(3)).permutation(30)[:25].astype(np.int64)
    begin = np.array([0, 3, 0, 24, 10], np.int64)
    end = np.array([1, 20, 25, 25, 12], np.int64)
    ours = native.attention(q, keys, values, slots, begin, end)
    theirs = oracle.attention(q, keys, values, slots, begin, end)
    np.testing.assert_allclose(ours, theirs, atol=3e-6, rtol=0)
    np.testing.assert_allclose(ours[0], np.repeat(values[slots[0]], 3, axis=0), atol=1e-6)
