"""JSON as model files should hold it: one object, no duplicate keys, no NaN, bounded nesting."""

import json
from collections import Counter
from pathlib import Path
from typing import Never

from nestling.weights.mapped_file import corrupt, read_small_file

MAX_JSON_BYTES = 16 << 20
"""Sixteen times the largest header or index of a published Gemma 3n."""


def parse_object(raw: bytes, path: Path, what: str) -> dict[str, object]:
    """The JSON object in `raw`; `what` names the text in the ModelFileError ("header", "index")."""
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise corrupt(path, f"{what} is nested too deeply") from error
    except ValueError as error:  # bad UTF-8, bad JSON, duplicate keys, numbers beyond int's limit
        raise corrupt(path, f"{what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise corrupt(path, f"{what} is a JSON {type(value).__name__}, expected an object")
    return value


def read_object(path: Path) -> dict[str, object]:
    """The JSON object that the file at `path` holds; raises ModelFileError."""
    return parse_object(read_small_file(path, MAX_JSON_BYTES), path, "the file")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"duplicate name {twice!r}")
    return result


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON number")
