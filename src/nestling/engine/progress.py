"""Numbers that only grow as an engine works: its parent sees that work goes on, or does not.

The engine process and its parent map the same page, so the parent can read it while the process is
stopped. Behind the page the process writes its stacks when it is asked for them.
"""

import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

from nestling.weights.progress import Progress, no_progress

STACKS_OFFSET = mmap.PAGESIZE
"""Where the stacks begin in the file of the page."""
_NUM_COUNTERS = 4


class EngineProgress:
    """Counters of the loop's steps, of the core's pieces of work, and of the bytes of a load."""

    def __init__(
        self, counters: NDArray[np.int64] | None = None, on_load: Progress = no_progress
    ) -> None:
        self._counters = np.zeros(_NUM_COUNTERS, np.int64) if counters is None else counters
        self._on_load = on_load

    @property
    def pieces(self) -> NDArray[np.int64]:
        """int64 [1] of its own for the core, whose threads count at the same time as the loop."""
        return self._counters[1:2]

    @property
    def loaded_bytes(self) -> tuple[int, int]:
        """Bytes that a load has done, and bytes in total; both 0 before the first report."""
        return int(self._counters[2]), int(self._counters[3])

    def move(self) -> None:
        """Count one thing that the loop has done."""
        self._counters[0] += 1

    def report_bytes(self, num_done: int, num_total: int) -> None:
        """Note how far a load is; a `weights.progress.Progress`."""
        self._counters[2:] = num_done, num_total
        self.move()
        self._on_load(num_done, num_total)

    def total(self) -> int:
        """Return a number that differs from every earlier one if anything was done between."""
        return int(self._counters[:2].sum())


def create_page() -> int:
    """Return the descriptor of a fresh page; raises OSError."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("nestling-engine")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, STACKS_OFFSET)
    return descriptor


def map_page(descriptor: int) -> EngineProgress:
    """Return the counters in a page, shared with whoever else maps it."""
    page = mmap.mmap(descriptor, STACKS_OFFSET)
    return EngineProgress(np.frombuffer(page, np.int64, _NUM_COUNTERS))
