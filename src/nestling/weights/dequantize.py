"""Stored bytes -> float32, for every element type that Nestling reads.

The C++ core decodes; the `gguf` library owns the type codes and block sizes (imported on first use,
here only).
"""

from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from nestling.native.weights import decode_rows

PLAIN_TYPES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes per element; both safetensors and GGUF use these names."""
BLOCK_TYPES = (
    "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ4_NL", "IQ4_XS",
)  # fmt: skip


@cache
def _gguf() -> ModuleType:
    import gguf  # here, as it costs 0.25 s that a safetensors folder need not pay

    module: ModuleType = gguf
    return module


def is_supported(dtype: str) -> bool:
    """Whether `dequantize` knows the type."""
    return dtype in PLAIN_TYPES or dtype in BLOCK_TYPES


def ggml_type_name(code: int) -> str | None:
    """GGML's name of a type code ("Q4_K"), None for a code that the library does not know."""
    try:
        return str(_gguf().GGMLQuantizationType(code).name)
    except ValueError:
        return None


@cache
def block_layout(dtype: str) -> tuple[int, int]:
    """(elements, bytes) of one block of a GGML type named by `ggml_type_name`."""
    if dtype in PLAIN_TYPES:
        return 1, PLAIN_TYPES[dtype]
    library = _gguf()
    num_elements, num_bytes = library.GGML_QUANT_SIZES[library.GGMLQuantizationType[dtype]]
    return int(num_elements), int(num_bytes)


def dequantize(dtype: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[num_elements] from contiguous whole blocks `raw` [num_bytes].

    F32 is returned as a read-only view of `raw` if its address allows; everything else is new.
    """
    assert is_supported(dtype), dtype
    if dtype == "F32":
        view = raw.view("<f4")
        return view if view.flags.aligned else view.copy()
    block_elements, block_bytes = block_layout(dtype)
    num_elements = raw.size // block_bytes * block_elements
    if num_elements == 0:
        return np.empty(0, np.float32)
    return decode_rows(raw, dtype, num_elements, np.zeros(1, np.int64)).reshape(-1)
