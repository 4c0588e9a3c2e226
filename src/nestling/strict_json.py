"""Tells what JSON from outside must not hold, because two readers could understand it differently.

Hooks for the decoders of request bodies and of model files.
"""

from collections import Counter
from typing import Any, Never


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs; raise ValueError if a key stands in it twice."""
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:100]!a} stands twice in one object")
    return value


def refuse_constant(name: str) -> Never:
    """Raise ValueError for NaN, Infinity and -Infinity."""
    raise ValueError(f"{name} is not a JSON number")
