"""Tells how loading, packing and writing tell somebody who waits how far they are."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in total, at least after each tensor; on the same
thread, so a long callback delays the work."""


def no_progress(num_done: int, num_total: int) -> None:
    """Report to nobody."""
