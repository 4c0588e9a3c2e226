"""Reading memory: sane figures, and refusals."""

import pytest

from nestling.native.system import ThreadPool, read_bandwidth


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("num_bytes", [64 * 3, 1_000_000, 5 << 20])
def test_a_rate_that_memory_can_have(num_bytes: int, num_threads: int) -> None:
    """Between a megabyte and a hundred terabytes a second, at any size and number of threads."""
    assert 1e5 < read_bandwidth(num_bytes, ThreadPool(num_threads)) < 1e14


@pytest.mark.parametrize("num_bytes", [0, 127])
def test_too_small_a_buffer_is_refused(num_bytes: int) -> None:
    """Each thread needs a cache line."""
    with pytest.raises(ValueError, match="num_bytes"):
        read_bandwidth(num_bytes, ThreadPool(2))


def test_no_such_buffer() -> None:
    """More than any address space."""
    with pytest.raises(MemoryError):
        read_bandwidth(1 << 62, ThreadPool(1))
