"""Readers of one JSON field each, with the messages and codes that OpenAI's clients know.

A reader takes the field's full name (`messages[0].role`) and its value, which is never None, and
returns the validated value or raises `InvalidRequestError` naming the field, what was expected and
what came. Echoed text is cut, so that an answer is never much longer than the wrong request.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nestling.engine.clients.messages import MAX_COUNT
from nestling.errors import InvalidRequestError, shown

Schema = dict[str, Any]
"""A JSON Schema."""


class Reader(Protocol):
    """Reads one field."""

    def read(self, name: str, value: Any) -> Any:
        """Return the validated value."""
        ...

    def schema(self) -> Schema:
        """Return what is accepted, as JSON Schema."""
        ...


def json_type(value: object) -> str:
    """Return the name of a JSON value's type in messages: "a string", "null", ..."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a decimal" if math.isfinite(value) else "a number that is not finite"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "an array"
    return "an object" if isinstance(value, dict) else f"a value of type {type(value).__name__}"


def invalid(message: str, name: str, code: str) -> InvalidRequestError:
    """Return the refusal of the field `name`."""
    return InvalidRequestError(message, param=name, code=code)


def wrong_type(name: str, expected: str, value: object) -> InvalidRequestError:
    """Return the refusal of a value of another type."""
    came = json_type(value)
    message = f"Invalid type for '{name}': expected {expected}, but got {came} instead."
    return invalid(message, name, "invalid_type")


def _number(name: str, value: object, expected: str) -> float:
    """Return a number that is finite; integers stay what they are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(name, expected, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong_type(name, expected, value)
    return value


def missing(name: str) -> InvalidRequestError:
    """Return the refusal of a request without a required field."""
    return invalid(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def not_supported(name: str, detail: str) -> InvalidRequestError:
    """Return the refusal of something that exists elsewhere but not here."""
    message = f"Unsupported parameter: '{name}' is not supported by this server{detail}."
    return invalid(message, name, "unsupported_parameter")


def not_among(name: str, value: str, supported: Collection[str]) -> InvalidRequestError:
    """Return the refusal of a value that is none of the supported ones."""
    wanted = ", ".join(f"'{item}'" for item in supported)
    message = f"Invalid value for '{name}': '{shown(value)}'. Supported values are: {wanted}."
    return invalid(message, name, "invalid_value")


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number within bounds. Booleans and strings are no numbers."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    """Exclusive lower bound."""

    def read(self, name: str, value: Any) -> float:
        """Return the value as a finite float; -0.0 becomes 0.0."""
        number = _number(name, value, "a decimal")
        self.check(name, number, "decimal")
        return float(number) + 0.0

    def schema(self) -> Schema:
        """Return what is accepted, as JSON Schema."""
        bounds = {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "exclusiveMinimum": self.above,
        }
        given = {name: value for name, value in bounds.items() if value is not None}
        return {"type": "number", **given}

    def check(self, name: str, value: float, kind: str) -> None:
        """Raise if the value is out of bounds; compares exactly, however long an integer is."""
        start = f"Invalid '{name}': {kind}"
        if self.minimum is not None and value < self.minimum:
            wanted = f"below minimum value. Expected a value >= {self.minimum:g}"
            code = f"{kind}_below_min_value"
        elif self.above is not None and value <= self.above:
            wanted = f"below minimum value. Expected a value > {self.above:g}"
            code = f"{kind}_below_min_value"
        elif self.maximum is not None and value > self.maximum:
            limit = f"{self.maximum:g}" if abs(self.maximum) < 1e6 else str(self.maximum)
            wanted = f"above maximum value. Expected a value <= {limit}"
            code = f"{kind}_above_max_value"
        else:
            return
        raise invalid(f"{start} {wanted}, but got {shown(value)} instead.", name, code)


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number; 3.0 is one. With `floors`, for fields whose schema says number, 3.7 is 3."""

    minimum: int
    maximum: int = MAX_COUNT
    floors: bool = False

    def read(self, name: str, value: Any) -> int:
        """Return the value as an int within bounds."""
        number = _number(name, value, "a decimal" if self.floors else "an integer")
        if not self.floors and number != math.floor(number):
            raise wrong_type(name, "an integer", value)
        Number(self.minimum, self.maximum).check(name, number, "integer")
        return math.floor(number)

    def schema(self) -> Schema:
        """Return what is accepted, as JSON Schema."""
        kind = "number" if self.floors else "integer"
        return {"type": kind, "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True)
class Boolean:
    """`true` or `false`, nothing that merely looks like it."""

    def read(self, name: str, value: Any) -> bool:
        """Return the value."""
        if not isinstance(value, bool):
            raise wrong_type(name, "a boolean", value)
        return value

    def schema(self) -> Schema:
        """Return what is accepted, as JSON Schema."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Text:
    """A string of at least and at most so many characters."""

    min_length: int = 0
    max_length: int | None = None

    def read(self, name: str, value: Any) -> str:
        """Return the value."""
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        if len(value) < self.min_length:
            message = f"Invalid '{name}': empty string. Expected a string with minimum length "
            message += f"{self.min_length}, but got an empty string instead."
            raise invalid(message, name, "empty_string")
        if self.max_length is not None and len(value) > self.max_length:
            message = f"Invalid '{name}': string too long. Expected a string with maximum length "
            message += f"{self.max_length}, but got a string with length {len(value)} instead."
            raise invalid(message, name, "string_above_max_length")
        return value

    def schema(self) -> Schema:
        """Return what is accepted, as JSON Schema."""
        schema: Schema = {"type": "string"}
        if self.min_length:
            schema["minLength"] = self.min_length
        if self.max_length is not None:
            schema["maxLength"] = self.max_length
        return schema


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object of at most so many keys; its content is not looked at."""

    max_keys: int | None = None

    def read(self, name: str, value: Any) -> Mapping[str, Any]:
        """Return the value."""
        if not isinstance(value, dict):
            raise wrong_type(name, "an object", value)
        if self.max_keys is not None and len(value) > self.max_keys:
            message = f"Invalid '{name}': too many keys. Expected an object with at most "
            message += f"{self.max_keys} keys, but got {len(value)} instead."
            raise invalid(message, name, "object_above_max_properties")
        return value

    def schema(self) -> Schema:
        """Return what is accepted, as JSON Schema."""
        most = {} if self.max_keys is None else {"maxProperties": self.max_keys}
        return {"type": "object", **most}


def empty_array(name: str) -> InvalidRequestError:
    """Return the refusal of an array that needs an item."""
    message = f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an "
    return invalid(f"{message}empty array instead.", name, "empty_array")


def read_array(name: str, value: Any, *, maximum: int | None = None) -> list[Any]:
    """Return a JSON array of at most `maximum` items."""
    if not isinstance(value, list):
        raise wrong_type(name, "an array", value)
    if maximum is not None and len(value) > maximum:
        message = f"Invalid '{name}': array too long. Expected an array with maximum length "
        message += f"{maximum}, but got an array with length {len(value)} instead."
        raise invalid(message, name, "array_above_max_length")
    return value


def read_fields(given: Mapping[str, Any], fields: Mapping[str, Reader]) -> dict[str, Any]:
    """Return the validated values of those `fields` that are given."""
    return {
        name: reader.read(name, given[name]) for name, reader in fields.items() if name in given
    }
