"""The keys and values of every position of every sequence, by slot.

Plain arrays; who owns which slot is the engine's business (`engine/kv_cache_manager.py`). Layers
that share keys and values have none here: see `Gemma3nTextConfig.kv_source_layer`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestling.model.config import Gemma3nTextConfig


@dataclass(frozen=True, eq=False)
class KVCache:
    """Rows are written by `Decoder.forward` only, at the slots its batch names."""

    keys: tuple[NDArray[np.float32], ...]
    """Per KV-owning layer [num_slots, num_kv_heads, head_dim], normed and rotated."""
    values: tuple[NDArray[np.float32], ...]
    """Per KV-owning layer [num_slots, num_kv_heads, head_dim], normed."""

    @staticmethod
    def allocate(config: Gemma3nTextConfig, num_slots: int) -> "KVCache":
        """A cache of zeros; the system gives its pages when they are first written."""
        shape = (num_slots, config.num_key_value_heads, config.head_dim)
        owners = range(config.first_kv_shared_layer)
        return KVCache(
            keys=tuple(np.zeros(shape, np.float32) for _ in owners),
            values=tuple(np.zeros(shape, np.float32) for _ in owners),
        )

    @staticmethod
    def bytes_per_slot(config: Gemma3nTextConfig) -> int:
        """Memory of one position in all layers."""
        row = config.num_key_value_heads * config.head_dim * np.dtype(np.float32).itemsize
        return 2 * config.first_kv_shared_layer * row

    @property
    def num_slots(self) -> int:
        """Positions that fit."""
        return len(self.keys[0])
