"""Keys and values of all positions of all sequences, by slot, in a pool for each layer type.

The pools are plain arrays. The engine decides who owns which slot (`engine/kv/manager.py`). Layers
that share keys and values have none here; see `Gemma3nTextConfig.kv_source_layer`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nestling.model.config import FULL, SLIDING, Gemma3nTextConfig

KVDtype = Literal["float16", "float32"]
KVArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class KVCache:
    """Keys and values. `Decoder.forward` alone writes them, at the slots that its batch names."""

    keys: tuple[KVArray, ...]
    """Per KV-owning layer [num_slots of its pool, num_kv_heads, head_dim], normed and rotated."""
    values: tuple[KVArray, ...]
    """Per KV-owning layer [num_slots of its pool, num_kv_heads, head_dim], normed."""

    @staticmethod
    def allocate(
        config: Gemma3nTextConfig,
        num_full_slots: int,
        num_sliding_slots: int,
        dtype: KVDtype = "float32",
    ) -> "KVCache":
        """Return a cache of zeros. The system gives its pages when they are first written."""
        num_slots = {FULL: num_full_slots, SLIDING: num_sliding_slots}
        shapes = [
            (num_slots[layer_type], config.num_key_value_heads, config.head_dim)
            for layer_type in owning_layer_types(config)
        ]
        return KVCache(
            keys=tuple(np.zeros(shape, dtype) for shape in shapes),
            values=tuple(np.zeros(shape, dtype) for shape in shapes),
        )


def owning_layer_types(config: Gemma3nTextConfig) -> tuple[str, ...]:
    """Return the types of the layers that own keys and values, in their order."""
    return config.layer_types[: config.first_kv_shared_layer]


def kv_bytes_per_token(config: Gemma3nTextConfig, layer_type: str, dtype: KVDtype) -> int:
    """Return the bytes of one position in all owning layers of one type."""
    row = config.num_key_value_heads * config.head_dim * np.dtype(dtype).itemsize
    return 2 * owning_layer_types(config).count(layer_type) * row
