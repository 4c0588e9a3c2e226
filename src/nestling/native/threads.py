"""The pool of threads on which the kernels of `linear` and `attention` run.

An engine owns one. A pool runs one kernel at a time; kernels called from several threads wait for
each other. Its threads end with the object.
"""

from nestling.native._core import ThreadPool

__all__ = ["ThreadPool"]
