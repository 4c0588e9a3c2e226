"""What every layer needs to know about the rows of one step: angles and cache ranges."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nestling.model.batch import ForwardBatch
from nestling.model.config import FULL, SLIDING, Gemma3nTextConfig
from nestling.model.ops import Array, RopeTable


@dataclass(frozen=True, eq=False, slots=True)
class LayerRows:
    """The rows of a step as the layers of one type see them."""

    cos: Array
    """[num_rows, 1, 1, head_dim / 2]"""
    sin: Array
    """[num_rows, 1, 2, head_dim / 2]"""
    slots: NDArray[np.int64]
    """[sum of seq_len], the cache slots of all sequences, concatenated."""
    begin: NDArray[np.int64]
    """[num_rows]; row r attends to the positions at slots[begin[r]:end[r]]."""
    end: NDArray[np.int64]
    """[num_rows]"""

    def take(self, rows: NDArray[np.int32]) -> "LayerRows":
        """Only these rows."""
        return LayerRows(
            self.cos[rows], self.sin[rows], self.slots, self.begin[rows], self.end[rows]
        )


class StepPlanner:
    """Turns a `ForwardBatch` into `LayerRows` by layer type."""

    def __init__(self, config: Gemma3nTextConfig) -> None:
        self._sliding_window = config.sliding_window
        bases = {FULL: config.rope_theta, SLIDING: config.rope_local_base_freq}
        self._rope = {t: RopeTable(bases[t], config.head_dim) for t in set(config.layer_types)}

    def plan(self, batch: ForwardBatch) -> dict[str, LayerRows]:
        """By layer type. Causal: a row sees its sequence up to itself; sliding: the last of it."""
        slots = _concatenated(batch.context_slots)
        seq_lens = [len(s) for s in batch.context_slots]
        seq_begin = np.cumsum([0, *seq_lens[:-1]], dtype=np.int64)
        first = np.repeat(seq_begin, np.diff(batch.query_start_loc))
        positions = batch.positions.astype(np.int64)
        end = first + positions + 1
        window_begin = first + np.maximum(positions + 1 - self._sliding_window, 0)
        begins = {FULL: first, SLIDING: window_begin}
        return {
            layer_type: LayerRows(*table.rows(batch.positions), slots, begins[layer_type], end)
            for layer_type, table in self._rope.items()
        }


def _concatenated(parts: tuple[NDArray[np.int64], ...]) -> NDArray[np.int64]:
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts), np.int64)
