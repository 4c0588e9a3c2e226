"""The pool of threads on which the core packs weights and computes steps.

An engine owns one. A pool runs one loop at a time; loops started from several threads wait for
each other. Its threads end with the object. `count_pieces_in` names an int64 [1] that grows by one
with each piece of a loop that is done.
"""

from nestling.native._core import MAX_THREADS, ThreadPool

__all__ = ["MAX_THREADS", "ThreadPool"]
