"""JSON of model files: one object, no key twice, no NaN, bounded nesting."""

import codecs
import json
from pathlib import Path

from nestling.strict_json import refuse_constant, unique_keys
from nestling.weights.mapped_file import corrupt, read_small_file

MAX_JSON_BYTES = 16 << 20
"""Sixteen times the largest header or index of a published Gemma 3n."""


def parse_object(raw: bytes, path: Path, what: str) -> dict[str, object]:
    """Return the JSON object in `raw`.

    `what` names the text in the ModelFileError ("header", "index").
    """
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=refuse_constant
        )
    except RecursionError as error:
        raise corrupt(path, f"{what} is nested too deeply") from error
    except ValueError as error:  # bad UTF-8, bad JSON, duplicate keys, numbers beyond int's limit
        raise corrupt(path, f"{what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise corrupt(path, f"{what} is a JSON {type(value).__name__}, expected an object")
    return value


def read_object(path: Path) -> dict[str, object]:
    """Return the JSON object that a text file holds, with a byte order mark or without.

    Raises ModelFileError.
    """
    raw = read_small_file(path, MAX_JSON_BYTES)
    return parse_object(raw.removeprefix(codecs.BOM_UTF8), path, "the file")
