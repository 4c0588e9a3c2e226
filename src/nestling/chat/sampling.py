"""Readers of the sampling parameters, for JSON and for Python alike: one table of names and bounds.

The numbers are the engine's (`RANGES`). What is about text stands beside them: stop strings, keys
of `logit_bias`, the number of choices.
"""

import re
from collections.abc import Mapping
from typing import Any

from nestling.chat.fields import (
    Integer,
    Number,
    Object,
    Reader,
    Schema,
    Text,
    invalid,
    read_array,
    wrong_type,
)
from nestling.engine.clients.messages import MAX_LOGIT_BIAS, RANGES
from nestling.errors import shown

MAX_N = 8
MAX_STOP_STRINGS = 4
MAX_STOP_LENGTH = 1024
MAX_LOGIT_BIASES = 1024
MAX_BIAS_KEY_LENGTH = 256
_ID = re.compile(r"[0-9]+")


class _TopK:
    """Reads k; 0 stands for the values that switch it off. Fractions are floored, but not to 0."""

    def read(self, name: str, value: Any) -> int:
        Number(-1).read(name, value)
        least, most = RANGES[name]
        return 1 if 0 < value < 1 else int(max(least, min(value, most)))

    def schema(self) -> Schema:
        return Number(-1).schema()


class _Penalty:
    """Reads a factor above 0, cut to the engine's range: beyond it all act alike."""

    def read(self, name: str, value: Any) -> float:
        least, most = RANGES[name]
        return min(max(Number(above=0).read(name, value), least), most)

    def schema(self) -> Schema:
        return Number(above=0).schema()


class _Stop:
    """Reads one text or an array of texts."""

    _text = Text(1, MAX_STOP_LENGTH)

    def read(self, name: str, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            return (self._text.read(name, value),)
        if not isinstance(value, list):
            raise wrong_type(name, "a string or an array of strings", value)
        items = read_array(name, value, maximum=MAX_STOP_STRINGS)
        return tuple(self._text.read(f"{name}[{i}]", item) for i, item in enumerate(items))

    def schema(self) -> Schema:
        text = self._text.schema()
        return {"anyOf": [text, {"type": "array", "items": text, "maxItems": MAX_STOP_STRINGS}]}


class _LogitBias:
    """Reads biases by key as sent. Keys that look like numbers must be plain decimal ids."""

    _keys = Object(MAX_LOGIT_BIASES)

    def read(self, name: str, value: Any) -> dict[str, float]:
        biases = {}
        for key, bias in self._keys.read(name, value).items():
            place = f"{name}.{shown(key)}"
            Text(1, MAX_BIAS_KEY_LENGTH).read(place, key)
            if not _ID.fullmatch(key) and _looks_numeric(key):
                message = f"Invalid '{name}': '{shown(key)}' is not a token id. "
                message += "Expected an id in decimal digits, or text."
                raise invalid(message, name, "invalid_value")
            biases[key] = BIAS.read(place, bias)
        return biases

    def schema(self) -> Schema:
        return {**self._keys.schema(), "additionalProperties": BIAS.schema()}


def _looks_numeric(key: str) -> bool:
    try:
        float(key)
    except ValueError:
        return False
    return any(character.isdigit() for character in key)


def _integer(name: str) -> Integer:
    least, most = RANGES[name]
    return Integer(int(least), int(most))


BIAS = Number(-MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
MAX_TOKENS = _integer("max_tokens")
TOP_LOGPROBS = _integer("logprobs")
SAMPLING_FIELDS: Mapping[str, Reader] = {
    "temperature": Number(*RANGES["temperature"]),
    "top_p": Number(*RANGES["top_p"]),
    "min_p": Number(*RANGES["min_p"]),
    "top_a": Number(*RANGES["top_a"]),
    "repetition_penalty": _Penalty(),
    "frequency_penalty": Number(*RANGES["frequency_penalty"]),
    "presence_penalty": Number(*RANGES["presence_penalty"]),
    "seed": _integer("seed"),
    "top_k": _TopK(),
}
"""Fields of `SamplingParams` that requests give by the same name and with the same meaning."""
TEXT_FIELDS: Mapping[str, Reader] = {
    "n": Integer(1, MAX_N),
    "stop": _Stop(),
    "logit_bias": _LogitBias(),
}
"""Fields of a `GenerationRequest` that stand beside its `SamplingParams`."""
