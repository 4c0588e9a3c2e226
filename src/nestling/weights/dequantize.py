"""Stored bytes -> float32, for every element type that Nestling reads. The C++ core decodes."""

import numpy as np
from numpy.typing import NDArray

from nestling.native.weights import decode_rows
from nestling.weights.stored_types import stored_type


def dequantize(dtype: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the f32 [num_elements] of contiguous whole blocks `raw` [num_bytes].

    F32 is returned as a read-only view of `raw` if its address allows; everything else is new.
    """
    stored = stored_type(dtype)
    if dtype == "F32":
        view = raw.view("<f4")
        return view if view.flags.aligned else view.copy()
    num_elements = raw.size // stored.block_bytes * stored.block_elements
    if num_elements == 0:
        return np.empty(0, np.float32)
    return decode_rows(raw, dtype, num_elements, np.zeros(1, np.int64)).reshape(-1)
