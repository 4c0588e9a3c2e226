"""Angles and cache ranges of the tokens of one step, which all layers need."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestling.model.batch import ForwardBatch
from nestling.model.config import FULL, SLIDING, Gemma3nTextConfig
from nestling.model.ops import Array, RopeTable

Slots = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class CacheRanges:
    """Places of the keys and values of a step in the pool of one layer type."""

    slots: Slots
    """The slots that this step's tokens see, sequence by sequence, in the order of positions."""
    begin: Slots
    """[num_tokens]; token t attends to the positions at slots[begin[t]:end[t]], itself the last."""
    end: Slots
    """[num_tokens]"""

    @property
    def own(self) -> Slots:
        """Return the slot [num_tokens] into which each token's keys and values go."""
        return self.slots[self.end - 1]


@dataclass(frozen=True, eq=False, slots=True)
class LayerTokens:
    """The tokens of a step as the layers of one type see them."""

    cos: Array
    """[num_tokens, 1, 1, head_dim / 2]"""
    sin: Array
    """[num_tokens, 1, 2, head_dim / 2]"""
    cache: CacheRanges

    def take(self, rows: NDArray[np.int32]) -> "LayerTokens":
        """Return these tokens only."""
        cache = self.cache
        return LayerTokens(
            self.cos[rows],
            self.sin[rows],
            CacheRanges(cache.slots, cache.begin[rows], cache.end[rows]),
        )


class StepPlanner:
    """Turns a `ForwardBatch` into `LayerTokens` by layer type."""

    def __init__(self, config: Gemma3nTextConfig) -> None:
        self._sliding_window = config.sliding_window
        rope = {
            FULL: (config.rope_theta, config.rope_scaling_factor),
            SLIDING: (config.rope_local_base_freq, config.rope_local_scaling_factor),
        }
        self._rope = {
            layer_type: RopeTable(rope[layer_type][0], config.head_dim, rope[layer_type][1])
            for layer_type in set(config.layer_types)
        }

    def plan(self, batch: ForwardBatch) -> dict[str, LayerTokens]:
        """Return the plan by layer type.

        A token sees its sequence up to itself in full layers, and the last of it in sliding ones.
        """
        return {
            layer_type: LayerTokens(*table.rows(batch.positions), self._ranges(layer_type, batch))
            for layer_type, table in self._rope.items()
        }

    def _ranges(self, layer_type: str, batch: ForwardBatch) -> CacheRanges:
        positions = batch.positions.astype(np.int64)
        first_rows = batch.query_start_loc[:-1]
        ends = positions[batch.query_start_loc[1:] - 1] + 1
        if layer_type == FULL:
            table = batch.full_block_table
            seen_from = np.zeros_like(positions)
        else:
            table = batch.sliding_block_table
            seen_from = np.maximum(positions + 1 - self._sliding_window, 0)
        begins = seen_from[first_rows]
        parts = [
            block_slots(blocks, batch.block_size, begin, end)
            for blocks, begin, end in zip(table, begins.tolist(), ends.tolist(), strict=True)
        ]
        slots = parts[0] if len(parts) == 1 else np.concatenate(parts)
        offsets = np.cumsum([0, *(len(part) for part in parts[:-1])], dtype=np.int64) - begins
        shift = np.repeat(offsets, np.diff(batch.query_start_loc))
        return CacheRanges(slots, seen_from + shift, positions + 1 + shift)


def block_slots(blocks: NDArray[np.int32], block_size: int, begin: int, end: int) -> Slots:
    """Return the slots [end - begin] of the positions [begin, end) of a sequence."""
    first = begin // block_size
    seen = blocks[first : -(-end // block_size)].astype(np.int64)
    slots = (seen[:, None] * block_size + np.arange(block_size)).ravel()
    return np.ascontiguousarray(slots[begin - first * block_size : end - first * block_size])
