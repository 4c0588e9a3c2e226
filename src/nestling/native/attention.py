"""Attention over cache slots: each row sees one contiguous range of its sequence's positions."""

import numpy as np
from numpy.typing import NDArray

from nestling.native import _core
from nestling.native.threads import ThreadPool


def attention(
    q: NDArray[np.float32],
    k_cache: NDArray[np.float32],
    v_cache: NDArray[np.float32],
    slots: NDArray[np.int64],
    row_begin: NDArray[np.int64],
    row_end: NDArray[np.int64],
    pool: ThreadPool,
) -> NDArray[np.float32]:
    """[num_rows, num_heads, head_dim]: softmax(q k^T) v, unscaled, in float32.

    Row r of `q` [num_rows, num_heads, head_dim] sees the slots `slots[row_begin[r]:row_end[r]]` of
    the caches [num_slots, num_kv_heads, head_dim], at least one; query head h uses kv head
    h // (num_heads / num_kv_heads). A row's result depends on its own data alone, to the bit.
    Raises TypeError on another dtype, ValueError on a shape or layout that does not fit, IndexError
    on a slot or range outside its array.
    """
    return _core.attention(q, k_cache, v_cache, slots, row_begin, row_end, pool)
