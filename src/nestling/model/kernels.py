"""The two heavy operations of the decoder, matrices and attention, behind one protocol.

`NumpyKernels` is the oracle of the C++ core. It is short and plain, but not bit-stable, because
BLAS sums a token differently in batches of different size.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nestling.model.ops import Array

PackedWeight = Any
"""A weight as the same kernels' `pack` returned it. Nobody else looks inside."""
Slots = NDArray[np.int64]


class Kernels(Protocol):
    """Functions of dense float32 arrays that return dense float32 arrays."""

    def pack(self, weight: Array) -> PackedWeight:
        """Return a matrix [out, in] in the form that `linear` wants."""
        ...

    def linear(self, x: Array, weight: PackedWeight) -> Array:
        """Return x @ weight.T, [num_tokens, out] of [num_tokens, in]."""
        ...

    def attention(
        self,
        q: Array,
        k_cache: Array,
        v_cache: Array,
        slots: Slots,
        row_begin: Slots,
        row_end: Slots,
    ) -> Array:
        """Softmax attention of q [num_rows, num_heads, head_dim], unscaled, -> the same shape.

        The caches are [num_slots, num_kv_heads, head_dim]. Row r sees exactly the cache rows
        slots[row_begin[r]:row_end[r]], at least one. Neighbouring query heads share a kv head.
        """
        ...


class NumpyKernels:
    """The reference, which needs numpy alone."""

    def pack(self, weight: Array) -> PackedWeight:
        """Return the matrix itself."""
        return np.ascontiguousarray(weight, np.float32)

    def linear(self, x: Array, weight: PackedWeight) -> Array:
        """See `Kernels.linear`."""
        out: Array = x @ weight.T
        return out

    def attention(
        self,
        q: Array,
        k_cache: Array,
        v_cache: Array,
        slots: Slots,
        row_begin: Slots,
        row_end: Slots,
    ) -> Array:
        """See `Kernels.attention`."""
        num_rows, num_heads, head_dim = q.shape
        num_kv_heads = k_cache.shape[1]
        groups = q.reshape(num_rows, num_kv_heads, num_heads // num_kv_heads, head_dim)
        out = np.empty_like(groups)
        for row in range(num_rows):
            seen = slots[row_begin[row] : row_end[row]]
            keys, values = k_cache[seen], v_cache[seen]  # [num_seen, num_kv_heads, head_dim]
            scores = groups[row] @ keys.transpose(1, 2, 0)
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            out[row] = scores @ values.transpose(1, 0, 2)
        return out.reshape(q.shape)
