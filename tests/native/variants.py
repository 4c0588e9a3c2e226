"""The instruction sets that this processor runs."""

from nestling.native import _core

VARIANTS: tuple[str, ...] = _core.variants()
EXACT_PAIR = ("avx2", "avx512")
"""These two agree to the bit."""
