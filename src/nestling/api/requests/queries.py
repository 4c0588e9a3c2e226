"""Query strings, read strictly: names and values in UTF-8, each parameter known and in bounds.

Readers return the validated value or raise `InvalidRequestError` naming the parameter, what was
expected and what came.
"""

import re
from collections.abc import Collection
from urllib.parse import parse_qsl

from starlette.types import Scope

from nestling.chat.fields import invalid
from nestling.errors import InvalidRequestError, shown

MAX_PARAMETERS = 256
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_INTEGER = re.compile(r"-?[0-9]{1,18}")


class Query:
    """The parameters of one request."""

    def __init__(self, scope: Scope) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in _parse(scope["query_string"]):
            self._values.setdefault(name, []).append(value)

    def allow(self, names: Collection[str]) -> None:
        """Raise if there is a parameter that is none of these."""
        for name in self._values:
            if name not in names:
                known = ", ".join(sorted(names)) or "none"
                message = f"unknown parameter '{shown(name)}'; known are: {known}"
                raise _refused(message, shown(name))

    def one(self, name: str) -> str | None:
        """Return the value of a parameter that may stand once; None if it is absent."""
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise _refused(f"'{name}' is given {len(values)} times; expected it once", name)
        return values[0]

    def many(self, name: str, maximum: int = MAX_PARAMETERS) -> tuple[str, ...]:
        """Return all values of a parameter that may be repeated."""
        values = self._values.get(name, [])
        if len(values) > maximum:
            message = f"'{name}' is given {len(values)} times; expected at most {maximum}"
            raise _refused(message, name)
        return tuple(values)

    def listed(self, name: str) -> tuple[str, ...]:
        """Return all values of a parameter that may be repeated or hold commas, in lower case."""
        values = [item.strip().lower() for text in self.many(name) for item in text.split(",")]
        return tuple(value for value in values if value)

    def integer(self, name: str, default: int, minimum: int, maximum: int) -> int:
        """Return a whole number within bounds."""
        text = self.one(name)
        if text is None:
            return default
        if not _INTEGER.fullmatch(text) or not minimum <= int(text) <= maximum:
            wanted = f"expected an integer from {minimum} to {maximum}"
            raise _refused(f"invalid '{name}': {wanted}, but got '{shown(text)}'", name)
        return int(text)

    def choice(self, name: str, allowed: Collection[str]) -> str | None:
        """Return one of the allowed values, None if it is absent."""
        text = self.one(name)
        if text is not None and text not in allowed:
            raise not_among(name, text, allowed)
        return text


def _parse(raw: bytes) -> list[tuple[str, str]]:
    try:
        text = raw.decode("ascii")
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except UnicodeError:
        raise _refused("the query string cannot be read: expected UTF-8", None) from None
    except ValueError:
        raise _refused(f"expected at most {MAX_PARAMETERS} parameters", None) from None
    if _BAD_ESCAPE.search(text):
        raise _refused("the query string has a % without two hex digits behind it", None)
    return pairs


def not_among(name: str, value: str, allowed: Collection[str]) -> InvalidRequestError:
    """Return the refusal of a value that is none of the allowed ones."""
    wanted = " | ".join(f"'{item}'" for item in allowed)
    return _refused(f"invalid '{name}': expected {wanted}, but got '{shown(value)}'", name)


def bad_parameter(name: str, problem: str) -> InvalidRequestError:
    """Return the refusal of a parameter."""
    return _refused(f"invalid '{name}': {problem}", name)


def _refused(problem: str, name: str | None) -> InvalidRequestError:
    message = f"Query validation error! {problem[0].upper()}{problem[1:]}."
    if name is None:
        return InvalidRequestError(message, code="invalid_query")
    return invalid(message, name, "invalid_query")
