"""The pool of threads on which the core packs weights and computes steps.

An engine owns one. A pool runs one loop at a time; loops started from several threads wait for
each other. Its threads end with the object.
"""

from nestling.native._core import MAX_THREADS, ThreadPool

__all__ = ["MAX_THREADS", "ThreadPool"]
