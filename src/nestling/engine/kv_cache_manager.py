"""Which cache slots belong to which request: paged blocks over one pool and a free list.

It knows numbers only; keys and values live in `model/kv_cache.py`. Runs in the loop's thread.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class _BlockTable:
    blocks: list[int]
    slots: NDArray[np.int64]
    """[capacity], filled up to len(blocks) * block_size: the slot of each position."""


class KVCacheManager:
    """Block tables of the running requests; position p is in block number p // block_size."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        assert num_blocks > 0
        assert block_size > 0
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._tables: dict[str, _BlockTable] = {}

    @property
    def num_free_blocks(self) -> int:
        return len(self._free)

    @property
    def num_slots(self) -> int:
        return self.num_blocks * self.block_size

    def allocate(self, request_id: str, num_tokens: int) -> bool:
        """Make positions 0 .. num_tokens have slots; False, and nothing changed, if blocks lack."""
        table = self._tables.get(request_id)
        num_owned = 0 if table is None else len(table.blocks)
        num_wanted = -(-num_tokens // self.block_size) - num_owned
        if num_wanted > len(self._free):
            return False
        if table is None:
            table = _BlockTable([], np.empty(0, np.int64))
            self._tables[request_id] = table
        for _ in range(num_wanted):
            self._append(table, self._free.pop())
        return True

    def _append(self, table: _BlockTable, block: int) -> None:
        size = self.block_size
        begin = len(table.blocks) * size
        if begin + size > len(table.slots):
            grown = np.empty(max(2 * len(table.slots), 4 * size), np.int64)
            grown[:begin] = table.slots[:begin]
            table.slots = grown
        table.slots[begin : begin + size] = np.arange(block * size, (block + 1) * size)
        table.blocks.append(block)

    def slots(self, request_id: str, num_tokens: int) -> NDArray[np.int64]:
        """[num_tokens]: the slots of positions 0 .. num_tokens; a view, valid for this step."""
        table = self._tables[request_id]
        assert num_tokens <= len(table.blocks) * self.block_size
        return table.slots[:num_tokens]

    def block_table(self, request_id: str) -> tuple[int, ...]:
        """The request's blocks by position; empty if it has none."""
        table = self._tables.get(request_id)
        return () if table is None else tuple(table.blocks)

    def free(self, request_id: str) -> None:
        """Give all blocks of the request back; nothing to do if it has none."""
        table = self._tables.pop(request_id, None)
        if table is not None:
            self._free.extend(reversed(table.blocks))
