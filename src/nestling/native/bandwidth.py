"""How fast this machine reads memory, which bounds how fast it can decode."""

from nestling.native import _core
from nestling.native.threads import ThreadPool


def read_bandwidth(num_bytes: int, pool: ThreadPool) -> float:
    """Bytes a second that the pool's threads read together from huge pages, in order.

    Takes a buffer of `num_bytes` for the moment; choose it far beyond the caches. Raises ValueError
    below 64 bytes a thread, MemoryError if there is no such buffer.
    """
    return _core.read_bandwidth(num_bytes, pool)
