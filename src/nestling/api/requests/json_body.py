"""Bytes of a request body to a plain JSON object, strictly.

What two readers could read differently is refused: duplicate keys, lone surrogates, NaN, numbers
that overflow, other encodings than UTF-8.
"""

import gc
import json
import math
import re
from typing import Any

from nestling.chat.fields import json_type
from nestling.errors import InvalidRequestError
from nestling.strict_json import refuse_constant, unique_keys

MAX_DIGITS = 300
"""Of an integer, so that every one of them is also a finite float."""
LARGE_BYTES = 2**16
"""From this size on parsing takes milliseconds and belongs in a thread."""
_SHAPE = bytes(
    ord("0" if chr(c) in "0123456789" else "e" if chr(c) in "eE+" else " ") for c in range(256)
)
"""Maps text to what of it can be a number that is too large."""
_SURROGATE = re.compile(r"\\u[dD][89abAB]|\\u[dD][c-fC-F]")


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Return the object in `body`; raises `InvalidRequestError` with code "invalid_json"."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(f"expected UTF-8, but byte {error.start} is not") from None
    if text.startswith("\ufeff"):
        raise _refused("expected UTF-8 without a byte order mark, but it begins with one")
    try:
        value = _decode(text, body)
    except RecursionError:
        raise _refused("it is nested too deeply") from None
    except ValueError as error:
        raise _refused(str(error)) from None
    if not isinstance(value, dict):
        raise _refused(f"expected an object, but got {json_type(value)}")
    if _SURROGATE.search(text):
        _refuse_lone_surrogates(value)
    return value


def _decode(text: str, body: bytes) -> Any:
    """Return the value. Millions of new objects would start the garbage collector over and over."""
    shape = body.translate(_SHAPE)
    has_long_numbers = b"e000" in shape or b"0" * MAX_DIGITS in shape
    decoder = _CAREFUL_DECODER if has_long_numbers else _DECODER
    if len(text) < LARGE_BYTES or not gc.isenabled():
        return decoder.decode(text)
    gc.disable()
    try:
        return decoder.decode(text)
    finally:
        gc.enable()


def _refused(problem: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The body of the request could not be read as JSON: {problem}.", code="invalid_json"
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"the number {text[:40]}... is too large")
    return int(text)


def _refuse_lone_surrogates(value: Any) -> None:
    """Walk the tree (not by recursion: it may be deep) and check every string and key."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                raise _refused("a string holds half of a surrogate pair") from None
        elif isinstance(item, dict):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=refuse_constant)
"""Reads numbers at the speed of C; for bodies without long digits or exponents, in text neither."""
_CAREFUL_DECODER = json.JSONDecoder(
    object_pairs_hook=unique_keys,
    parse_float=_finite,
    parse_int=_whole,
    parse_constant=refuse_constant,
)
