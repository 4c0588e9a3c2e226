"""Which instruction set the kernels use on this machine."""

from nestling.native import _core


def instruction_set() -> str:
    """The best compiled variant that this processor runs, such as "avx2" or "portable"."""
    return _core.variants()[-1]
