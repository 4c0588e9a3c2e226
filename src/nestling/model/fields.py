"""Typed reading of the raw key-value maps that model files carry (JSON or GGUF metadata).

Numbers may come as Python or numpy scalars, whole numbers as floats (early GGUF files store counts
as f32), lists as lists, tuples or arrays. A null counts as missing. Every error is a ModelFileError
naming file and key. What was read is remembered, so that `refuse_rest` finds what was not.
"""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Never, TypeGuard

import numpy as np

from nestling.errors import ModelFileError

_MAX_INTEGER = 2**31 - 1
_MAX_SHOWN = 100


@dataclass(frozen=True)
class Fields:
    """Raw values and the file they came from; `prefix` is put before every key."""

    values: Mapping[str, object]
    path: object
    prefix: str = ""
    keys_read: set[str] = field(default_factory=set, repr=False, compare=False)
    """Without the prefix."""

    def get(self, key: str) -> object:
        """Return the raw value; None if missing or null."""
        self.keys_read.add(key)
        return self.values.get(self.prefix + key)

    def bad(self, key: str, expected: str) -> Never:
        """Raise ModelFileError: what came for the key and what was expected."""
        came = self.get(key)
        problem = f"is {_shown(came)}" if came is not None else "is missing"
        raise ModelFileError(self.path, f"{self.prefix}{key} {problem}, expected {expected}")

    def expect(self, key: str, *expected: object) -> None:
        """Raise ModelFileError unless the key is missing or has one of the expected values."""
        came = self.get(key)
        if isinstance(came, np.ndarray):
            came = came.tolist()
        if came is not None and came not in expected:
            self.bad(key, " or ".join([*map(repr, expected), "no such key"]))

    def refuse_rest(self, harmless: Container[str] = ()) -> None:
        """Raise ModelFileError for a key that was not read and is none of the harmless ones."""
        for key, value in self.values.items():
            if value is None or not key.startswith(self.prefix):
                continue
            name = key.removeprefix(self.prefix)
            if name not in self.keys_read and name not in harmless:
                raise ModelFileError(
                    self.path,
                    f"{key} is {_shown(value)}, a key that Nestling does not know; "
                    "without it the answers might be wrong",
                )

    def section(self, key: str, *, is_required: bool = False) -> "Fields":
        """A nested map; an empty one if it is missing and not required."""
        value = self.get(key)
        if value is None and not is_required:
            value = {}
        if not isinstance(value, Mapping):
            self.bad(key, "an object")
        # A section's keys have no prefix of their own; errors name the section by its path.
        return Fields(value, f"{self.path}: {self.prefix}{key}")

    def integer(
        self, *keys: str, minimum: int = 1, maximum: int = _MAX_INTEGER, default: int | None = None
    ) -> int:
        """A whole number under the first of `keys` that is there; required if no default."""
        key = self._first(keys)
        value = self.get(key)
        if value is None and default is not None:
            return default
        number = _whole(value)
        if number is None or not minimum <= number <= maximum:
            self.bad(key, f"a whole number from {minimum} to {maximum}")
        return number

    def integers(self, key: str, count: int) -> tuple[int, ...]:
        """[count] whole numbers of at least 1; a single one stands for all."""
        numbers = [_whole(v) for v in self._items(key, count)]
        good = tuple(n for n in numbers if n is not None and 1 <= n <= _MAX_INTEGER)
        if len(good) != count:
            self.bad(key, f"a whole number, or {count} of them, from 1 to {_MAX_INTEGER}")
        return good

    def uniform_integer(self, key: str, count: int) -> int:
        """One whole number, or `count` that are equal."""
        numbers = set(self.integers(key, count))
        if len(numbers) != 1:
            self.bad(key, "the same number for every layer")
        return numbers.pop()

    def number(self, *keys: str, default: float) -> float:
        """A finite number under the first of `keys` that is there."""
        key = self._first(keys)
        value = self.get(key)
        number = default if value is None else _real(value)
        if number is None or not math.isfinite(number):
            self.bad(key, "a number")
        return number

    def choice(self, *keys: str, options: Sequence[str], default: str) -> str:
        """One of `options` under one of `keys`."""
        key = self._first(keys)
        value = default if self.get(key) is None else self.get(key)
        if not isinstance(value, str) or value not in options:
            self.bad(key, " or ".join(map(repr, options)))
        return value

    def optional_number(self, key: str, *, default: float) -> float | None:
        """Like `number`, but a null that is written out means None."""
        if self.prefix + key in self.values and self.get(key) is None:
            return None
        return self.number(key, default=default)

    def numbers(self, key: str, count: int) -> tuple[float, ...] | None:
        """[count] numbers, infinities allowed; a single one stands for all; None if missing."""
        if self.get(key) is None:
            return None
        numbers = [_real(v) for v in self._items(key, count)]
        good = tuple(n for n in numbers if n is not None and not math.isnan(n))
        if len(good) != count:
            self.bad(key, f"a number, or {count} of them")
        return good

    def boolean(self, key: str, *, default: bool) -> bool:
        """true or false."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool | np.bool_):
            self.bad(key, "true or false")
        return bool(value)

    def booleans(self, key: str, count: int) -> tuple[bool, ...]:
        """[count] of true and false; a single one stands for all."""
        flags = tuple(bool(v) for v in self._items(key, count) if isinstance(v, bool | np.bool_))
        if len(flags) != count:
            self.bad(key, f"true or false, or {count} of them")
        return flags

    def strings(self, key: str) -> tuple[str, ...] | None:
        """Any number of strings; None if missing."""
        values = self.get(key)
        if values is None:
            return None
        texts = tuple(v for v in values if isinstance(v, str)) if is_list(values) else ()
        if not is_list(values) or len(texts) != len(values):
            self.bad(key, "a list of strings")
        return texts

    def token_ids(self, key: str) -> tuple[int, ...]:
        """One id, a list of them, or none."""
        value = self.get(key)
        if value is None:
            return ()
        numbers = [_whole(v) for v in (value if is_list(value) else [value])]
        good = tuple(n for n in numbers if n is not None and 0 <= n <= _MAX_INTEGER)
        if len(good) != len(numbers):
            self.bad(key, "a token id or a list of them")
        return good

    def _first(self, keys: Sequence[str]) -> str:
        """Return the key that is there, of names for one thing; several must agree."""
        found = [key for key in keys if self.get(key) is not None]
        for key in found[1:]:
            if self.get(key) != self.get(found[0]):
                self.bad(key, f"{_shown(self.get(found[0]))} as {self.prefix}{found[0]} says")
        return found[0] if found else keys[0]

    def _items(self, key: str, count: int) -> list[object]:
        value = self.get(key)
        return list(value) if is_list(value) else [value] * count


def is_list(value: object) -> TypeGuard[Sequence[object]]:
    """Whether the value is a list in the file: list, tuple or array, but not a string."""
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _shown(value: object) -> str:
    """Return the value as an error message shows it, long lists cut."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _real(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON has integers of any length
        return None


def _whole(value: object) -> int | None:
    number = _real(value)
    return int(number) if number is not None and number.is_integer() else None
