"""The body of POST /v1/chat/completions: one table of fields, raw JSON in, one `ChatRequest` out.

Every field is acted upon, accepted in its neutral value only, or refused by name; fields nobody
documents are ignored and reported in `ChatBody.unknown`. null counts as absent everywhere.
docs/api.md explains each row; a test holds the two together.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nestling.chat.fields import (
    Boolean,
    Object,
    Reader,
    Text,
    invalid,
    json_type,
    missing,
    not_supported,
    read_fields,
)
from nestling.chat.messages import MessageLimits, read_messages, unknown_message_fields
from nestling.chat.request import ChatRequest, CompletionRequest
from nestling.chat.sampling import MAX_TOKENS, SAMPLING_FIELDS, TEXT_FIELDS, TOP_LOGPROBS
from nestling.engine.clients.messages import SamplingParams
from nestling.errors import ModelNotFoundError, shown

FIELDS: Mapping[str, Reader] = {**SAMPLING_FIELDS, **TEXT_FIELDS}
"""Fields that go into a request under their own name, as they are."""

SHAPED_FIELDS: Mapping[str, Reader] = {
    "max_completion_tokens": MAX_TOKENS,
    "max_tokens": replace(MAX_TOKENS, floors=True),
    "top_logprobs": TOP_LOGPROBS,
    "stream": Boolean(),
    "stream_options": Object(),
    "logprobs": Boolean(),
    "user": Text(),
    "metadata": Object(),
}
"""Fields whose JSON type is checked here and whose meaning below. `user` and `metadata` are the
caller's own notes and change nothing."""

OTHER_FIELDS = ("model", "messages")

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
    values = read_fields(given, SAMPLING_FIELDS)
    bounds = [shaped[name] for name in ("max_tokens", "max_completion_tokens") if name in shaped]
    if bounds:
        values["max_tokens"] = min(bounds)
    sampling = SamplingParams(logprobs=_num_logprobs(shaped), **values)
    text = read_fields(given, TEXT_FIELDS)
    request = ChatRequest(messages=messages, sampling=sampling, **text)
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


def _num_logprobs(shaped: Mapping[str, Any]) -> int | None:
    """Return `SamplingParams.logprobs`."""
    num_top: int = shaped.get("top_logprobs", 0)
    if shaped.get("logprobs", False):
        return num_top
    if num_top:
        message = "Invalid 'top_logprobs': it needs 'logprobs' to be true."
        raise invalid(message, "top_logprobs", "invalid_value")
    return None


def unknown_stream_options(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names in `stream_options` that are ignored."""
    names = given.get("stream_options", {}).keys() - {"include_usage"}
    return tuple(sorted(f"stream_options.{name}" for name in names))


def read_include_usage(options: Mapping[str, Any] | None) -> bool:
    """Return whether the last chunk shall carry the counts."""
    value = (options or {}).get("include_usage")
    return value is not None and Boolean().read("stream_options.include_usage", value)
