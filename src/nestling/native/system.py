"""The machine: a pool of threads, the speed of its memory, and its instruction set.

An engine owns one `ThreadPool`, on which the core packs weights and computes steps. A pool runs one
loop at a time; loops started from several threads wait for each other. Its threads end with it.
`count_pieces_in` names an int64 [1] that grows by one with each piece of a loop that is done.
"""

from nestling.native import _core
from nestling.native._core import MAX_THREADS, ThreadPool

__all__ = ["MAX_THREADS", "ThreadPool", "instruction_set", "read_bandwidth"]


def read_bandwidth(num_bytes: int, pool: ThreadPool) -> float:
    """Return the bytes a second that the pool's threads read together from huge pages, in order.

    Takes a buffer of `num_bytes` for the moment; choose it far beyond the caches. Raises ValueError
    below 64 bytes a thread, MemoryError if there is no such buffer.
    """
    return _core.read_bandwidth(num_bytes, pool)


def instruction_set() -> str:
    """Return the best compiled variant that this processor runs, such as "avx2" or "portable"."""
    return _core.variants()[-1]
