"""The body of POST /v1/chat/completions: one table of fields, raw JSON in, one `ChatRequest` out.

Every field is acted upon, accepted in its neutral value only, or refused by name; fields nobody
documents are ignored and reported in `ChatBody.unknown`. null counts as absent everywhere.
docs/api.md explains each row; a test holds the two together.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nestling.api.requests.fields import (
    Boolean,
    Integer,
    Number,
    Object,
    Schema,
    Text,
    invalid,
    missing,
    not_supported,
    read_array,
    wrong_type,
)
from nestling.api.requests.json_body import json_type
from nestling.api.requests.messages import MessageLimits, read_messages, unknown_message_fields
from nestling.chat.request import ChatRequest, CompletionRequest
from nestling.errors import InvalidRequestError, ModelNotFoundError, shown

DOCUMENTED_MODEL = "google/gemma-3n-e4b-it"
MAX_N = 8
MAX_STOP_STRINGS = 4
MAX_STOP_LENGTH = 1024
MAX_LOGIT_BIASES = 1024
MAX_BIAS_KEY_LENGTH = 256
PENALTY_SATURATION = 1e4
"""Logits lie within +-30: beyond 1e4 and 1e-4 all penalties act alike. Keeps float32 finite."""

_ID = re.compile(r"[0-9]+")


class Reader(Protocol):
    """Reads one field; see `fields.py`."""

    def read(self, name: str, value: Any) -> Any:
        """Return the validated value."""
        ...

    def schema(self) -> Schema:
        """Return what is accepted, as JSON Schema."""
        ...


FIELDS: Mapping[str, Reader] = {
    "temperature": Number(0, 2),
    "top_p": Number(0.01, 1),
    "min_p": Number(0, 1),
    "top_a": Number(0, 1),
    "repetition_penalty": Number(above=0),
    "frequency_penalty": Number(-2, 2),
    "presence_penalty": Number(-2, 2),
    "seed": Integer(1, 2**63 - 1),
    "n": Integer(1, MAX_N),
}
"""Fields that go into a request under their own name, as they are."""

SHAPED_FIELDS: Mapping[str, Reader] = {
    "max_completion_tokens": Integer(1),
    "max_tokens": Integer(1, floors=True),
    "top_logprobs": Integer(0, 20),
    "stream": Boolean(),
    "stream_options": Object(),
    "logprobs": Boolean(),
    "logit_bias": Object(MAX_LOGIT_BIASES),
    "user": Text(),
    "metadata": Object(),
}
"""Fields whose JSON type is checked here and whose meaning below. `user` and `metadata` are the
caller's own notes and change nothing."""

OTHER_FIELDS = ("model", "messages", "top_k", "stop")

NEUTRAL_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "store": (False,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "best_of": (1,),
    "echo": (False,),
    "suffix": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
}
"""Fields of other servers: these values (and null) ask for nothing, any other is refused."""

KNOWN_FIELDS = frozenset({*FIELDS, *SHAPED_FIELDS, *OTHER_FIELDS, *NEUTRAL_FIELDS})


@dataclass(frozen=True, slots=True)
class InferenceBody:
    """A validated body: what to ask of the model and how to send the answer."""

    request: ChatRequest | CompletionRequest
    stream: bool
    include_usage: bool
    unknown: tuple[str, ...]
    """Names of fields that were ignored."""


def read_chat_body(
    raw: Mapping[str, Any], model_names: tuple[str, ...], limits: MessageLimits
) -> InferenceBody:
    """Validate the whole body; raises `InvalidRequestError` for the first field that is wrong."""
    given = {name: value for name, value in raw.items() if value is not None}
    check_model(given.get("model"), model_names)
    messages = read_messages(given.get("messages"), limits)
    refuse_unsupported(given, NEUTRAL_FIELDS)
    shaped = read_fields(given, SHAPED_FIELDS)
    sampling = read_sampling(given)
    logprobs = shaped.get("logprobs", False)
    request = ChatRequest(
        messages=messages,
        max_tokens=_smaller(shaped.get("max_tokens"), shaped.get("max_completion_tokens")),
        logprobs=logprobs,
        top_logprobs=_read_top_logprobs(shaped.get("top_logprobs", 0), logprobs),
        **sampling,
    )
    return InferenceBody(
        request=request,
        stream=shaped.get("stream", False),
        include_usage=read_include_usage(shaped.get("stream_options")),
        unknown=(
            *(name for name in given if name not in KNOWN_FIELDS),
            *sorted(unknown_message_fields(given["messages"])),
            *unknown_stream_options(given),
        ),
    )


def read_fields(given: Mapping[str, Any], fields: Mapping[str, Reader]) -> dict[str, Any]:
    """Return the validated values of those `fields` that are given."""
    return {
        name: reader.read(name, given[name]) for name, reader in fields.items() if name in given
    }


def read_sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what chat and text completions share, as arguments of a `GenerationRequest`."""
    values = read_fields(given, FIELDS)
    biases = read_fields(given, {"logit_bias": SHAPED_FIELDS["logit_bias"]}).get("logit_bias")
    if "repetition_penalty" in values:
        penalty = values["repetition_penalty"]
        values["repetition_penalty"] = min(max(penalty, 1 / PENALTY_SATURATION), PENALTY_SATURATION)
    return values | {
        "top_k": _read_top_k(given.get("top_k")),
        "stop": _read_stop(given.get("stop")),
        "logit_bias": _read_logit_bias(biases),
    }


def check_model(value: Any, model_names: tuple[str, ...]) -> None:
    """Raise unless the request asks for the model that is here."""
    if value is None:
        raise missing("model")
    name = Text().read("model", value)
    if name not in model_names:
        wanted = " | ".join(f"'{known}'" for known in model_names)
        raise ModelNotFoundError(
            f"The model '{shown(name)}' does not exist here. Invalid enum value. "
            f"Expected {wanted}, received '{shown(name)}'.",
            param="model",
        )


def refuse_unsupported(given: Mapping[str, Any], fields: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise for a field that holds anything but one of its neutral values."""
    for name, neutral in fields.items():
        if name not in given:
            continue
        value = given[name]
        is_flag = isinstance(value, bool)
        if not any(is_flag == isinstance(other, bool) and value == other for other in neutral):
            wanted = " or ".join(json.dumps(other) for other in (*neutral, None))
            raise not_supported(name, f": expected {wanted}, but got {_came(value)} instead")


def _came(value: object) -> str:
    """Describe a value that may be large or deep."""
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        return f"an object of type '{shown(value['type'])}'"
    return json_type(value) if isinstance(value, (dict, list)) else shown(json.dumps(value))


def _smaller(first: int | None, second: int | None) -> int | None:
    if first is None or second is None:
        return first if second is None else second
    return min(first, second)


def _read_top_k(value: Any) -> int:
    """Return k; 0 for the values that switch it off. Fractions are floored, but not to 0."""
    if value is None:
        return 0
    Number(-1).read("top_k", value)
    if 0 < value < 1:
        return 1
    return max(0, min(int(value), 2**31 - 1))


def _read_stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    text = Text(1, MAX_STOP_LENGTH)
    if isinstance(value, list):
        items = read_array("stop", value, maximum=MAX_STOP_STRINGS)
        return tuple(text.read(f"stop[{i}]", item) for i, item in enumerate(items))
    if not isinstance(value, str):
        raise wrong_type("stop", "a string or an array of strings", value)
    return (text.read("stop", value),)


def _read_logit_bias(value: Mapping[str, Any] | None) -> dict[str, float]:
    """Return biases by key as sent. Keys that look like numbers must be plain decimal ids."""
    biases = {}
    for key, bias in (value or {}).items():
        name = f"logit_bias.{shown(key)}"
        Text(1, MAX_BIAS_KEY_LENGTH).read(name, key)
        if not _ID.fullmatch(key) and _looks_numeric(key):
            raise _bad_bias_key(key)
        biases[key] = Number(-100, 100).read(name, bias)
    return biases


def _looks_numeric(key: str) -> bool:
    try:
        float(key)
    except ValueError:
        return False
    return any(character.isdigit() for character in key)


def _bad_bias_key(key: str) -> InvalidRequestError:
    message = f"Invalid 'logit_bias': '{shown(key)}' is not a token id. Expected an id in decimal "
    return invalid(message + "digits, or text.", "logit_bias", "invalid_value")


def _read_top_logprobs(value: int, logprobs: bool) -> int:
    if value and not logprobs:
        message = "Invalid 'top_logprobs': it needs 'logprobs' to be true."
        raise invalid(message, "top_logprobs", "invalid_value")
    return value


def unknown_stream_options(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names in `stream_options` that are ignored."""
    names = given.get("stream_options", {}).keys() - {"include_usage"}
    return tuple(sorted(f"stream_options.{name}" for name in names))


def read_include_usage(options: Mapping[str, Any] | None) -> bool:
    """Return whether the last chunk shall carry the counts."""
    value = (options or {}).get("include_usage")
    return value is not None and Boolean().read("stream_options.include_usage", value)
