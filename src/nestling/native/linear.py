"""Matrix products with packed weights, row for row the same bits in every batch.

`PackedLinear.pack(weight, dtype)` copies a float32 matrix [out_features, in_features] into blocks
of 16 outputs, as "float32" or as "bfloat16" (rounded to nearest even, widened exactly when used).
"""

import numpy as np
from numpy.typing import NDArray

from nestling.native import _core
from nestling.native._core import PackedLinear
from nestling.native.threads import ThreadPool

__all__ = ["PackedLinear", "linear"]


def linear(x: NDArray[np.float32], packed: PackedLinear, pool: ThreadPool) -> NDArray[np.float32]:
    """[num_rows, out_features] = x [num_rows, in_features] times the transposed weight, in float32.

    Each element is summed over in_features in ascending order whatever the batch or the pool, so a
    row's result does not depend on its neighbours. `x` must be C-contiguous. Raises TypeError on
    another dtype, ValueError on another shape or layout.
    """
    return _core.linear(x, packed, pool)
