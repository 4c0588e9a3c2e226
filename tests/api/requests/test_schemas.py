"""The table of fields, one row a rule: what is accepted and as what, what is refused and how."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.api.requests.chat import FIELDS, KNOWN_FIELDS, InferenceBody, read_chat_body
from nestling.api.requests.json_body import parse_json_object
from nestling.chat.messages import MessageLimits
from nestling.chat.request import ChatRequest
from nestling.chat.template import ChatMessage
from nestling.engine.clients.messages import RANGES, SamplingParams
from nestling.errors import InvalidRequestError, ModelNotFoundError
from tests.api.conftest import MODEL, chat_body

LIMITS = MessageLimits(max_file_bytes=2**20, system_role="fold")
NAMES = (MODEL, "nestling-nano", "nano")


def read(**fields: Any) -> InferenceBody:
    return read_chat_body(chat_body(**fields), NAMES, LIMITS)


def messages_of(body: InferenceBody) -> tuple[ChatMessage, ...]:
    """Return the messages of a chat request."""
    assert isinstance(body.request, ChatRequest)
    return body.request.messages


def test_example_body_of_the_page() -> None:
    raw = b"""{
      "model": "google/gemma-3n-e4b-it",
      "messages": [{"role": "user", "content": "text", "name": "text"}],
      "max_completion_tokens": 512, "max_tokens": 512, "stream": false,
      "stream_options": {"include_usage": true},
      "temperature": 1, "top_p": 1, "seed": 1, "min_p": 1, "top_k": 1,
      "repetition_penalty": 1, "top_a": 1, "stop": "text",
      "logit_bias": {"ANY_ADDITIONAL_PROPERTY": 1}
    }"""
    body = read_chat_body(parse_json_object(raw), NAMES, LIMITS)
    request = body.request
    assert messages_of(body) == (ChatMessage("user", "text"),)
    params = request.sampling
    assert (params.max_tokens, params.seed, params.top_k) == (512, 1, 1)
    assert request.logit_bias == {"ANY_ADDITIONAL_PROPERTY": 1.0}
    assert request.stop == ("text",)
    assert (body.stream, body.include_usage, body.unknown) == (False, True, ())


def test_defaults() -> None:
    request = read().request
    assert request.sampling == SamplingParams()
    assert request.sampling.max_tokens == 512
    assert (request.stop, request.logit_bias, request.n) == ((), {}, 1)


@pytest.mark.parametrize("name", sorted(KNOWN_FIELDS - {"model", "messages"}))
def test_null_is_absent(name: str) -> None:
    assert read(**{name: None}) == read()


ACCEPTED = [
    ({"temperature": 0}, "temperature", 0.0),
    ({"temperature": -0.0}, "temperature", 0.0),
    ({"temperature": 2}, "temperature", 2.0),
    ({"top_p": 0.01}, "top_p", 0.01),
    ({"min_p": 0}, "min_p", 0.0),
    ({"min_p": 1}, "min_p", 1.0),
    ({"top_a": 0}, "top_a", 0.0),
    ({"top_k": -1}, "top_k", 0),
    ({"top_k": 0}, "top_k", 0),
    ({"top_k": 0.3}, "top_k", 1),
    ({"top_k": 40.9}, "top_k", 40),
    ({"top_k": 10**18}, "top_k", 2**31 - 1),
    ({"repetition_penalty": 1.3}, "repetition_penalty", 1.3),
    ({"repetition_penalty": 1e308}, "repetition_penalty", 1e4),
    ({"repetition_penalty": 1e-308}, "repetition_penalty", 1e-4),
    ({"frequency_penalty": -2}, "frequency_penalty", -2.0),
    ({"presence_penalty": 2}, "presence_penalty", 2.0),
    ({"seed": 1}, "seed", 1),
    ({"seed": 2**63 - 1}, "seed", 2**63 - 1),
    ({"seed": 3.0}, "seed", 3),
    ({"max_tokens": 512.0}, "max_tokens", 512),
    ({"max_tokens": 7.9}, "max_tokens", 7),
    ({"max_tokens": 5, "max_completion_tokens": 9}, "max_tokens", 5),
    ({"max_tokens": 9, "max_completion_tokens": 5}, "max_tokens", 5),
    ({"max_completion_tokens": 5}, "max_tokens", 5),
    ({"stop": []}, "stop", ()),
    ({"stop": ["a", "b", "c", "d"]}, "stop", ("a", "b", "c", "d")),
    ({"logit_bias": {"7": -100, "a b": 0.5}}, "logit_bias", {"7": -100.0, "a b": 0.5}),
    ({"logit_bias": {"nan": 1}}, "logit_bias", {"nan": 1.0}),
    ({"logprobs": True, "top_logprobs": 20}, "logprobs", 20),
    ({"logprobs": True}, "logprobs", 0),
    ({"top_logprobs": 0}, "logprobs", None),
    ({"n": 8}, "n", 8),
]


@pytest.mark.parametrize(("fields", "name", "value"), ACCEPTED, ids=[str(a[0]) for a in ACCEPTED])
def test_accepted(fields: dict[str, Any], name: str, value: object) -> None:
    request = read(**fields).request
    got = getattr(request if hasattr(request, name) else request.sampling, name)
    assert got == value
    assert type(got) is type(value)
    assert str(got) == str(value)


REFUSED = [
    ({"temperature": 200}, "temperature", "decimal_above_max_value"),
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"temperature": "1"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"temperature": [1]}, "temperature", "invalid_type"),
    ({"top_p": 0}, "top_p", "decimal_below_min_value"),
    ({"top_p": 1.01}, "top_p", "decimal_above_max_value"),
    ({"min_p": 1.1}, "min_p", "decimal_above_max_value"),
    ({"top_a": 2}, "top_a", "decimal_above_max_value"),
    ({"top_k": -2}, "top_k", "decimal_below_min_value"),
    ({"top_k": "5"}, "top_k", "invalid_type"),
    ({"repetition_penalty": 0}, "repetition_penalty", "decimal_below_min_value"),
    ({"repetition_penalty": -1}, "repetition_penalty", "decimal_below_min_value"),
    ({"frequency_penalty": 2.1}, "frequency_penalty", "decimal_above_max_value"),
    ({"presence_penalty": -2.1}, "presence_penalty", "decimal_below_min_value"),
    ({"seed": 0}, "seed", "integer_below_min_value"),
    ({"seed": 2**70}, "seed", "integer_above_max_value"),
    ({"seed": 1.5}, "seed", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 0.5}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 10**12}, "max_tokens", "integer_above_max_value"),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens", "invalid_type"),
    ({"max_completion_tokens": False}, "max_completion_tokens", "invalid_type"),
    ({"n": 9}, "n", "integer_above_max_value"),
    ({"n": 2**63}, "n", "integer_above_max_value"),
    ({"n": -1}, "n", "integer_below_min_value"),
    ({"n": True}, "n", "invalid_type"),
    ({"logprobs": 1}, "logprobs", "invalid_type"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"stream": "true"}, "stream", "invalid_type"),
    ({"stream_options": []}, "stream_options", "invalid_type"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
    ({"stop": ""}, "stop", "empty_string"),
    ({"stop": ["a", ""]}, "stop[1]", "empty_string"),
    ({"stop": ["a", None]}, "stop[1]", "invalid_type"),
    ({"stop": list("abcde")}, "stop", "array_above_max_length"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stop": "x" * 10**6}, "stop", "string_above_max_length"),
    ({"logit_bias": []}, "logit_bias", "invalid_type"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5", "decimal_above_max_value"),
    ({"logit_bias": {"5": None}}, "logit_bias.5", "invalid_type"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"1e3": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"٣": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"": 1}}, "logit_bias.", "empty_string"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "object_above_max_properties"),
    ({"user": 5}, "user", "invalid_type"),
    ({"metadata": "x"}, "metadata", "invalid_type"),
    ({"model": None}, "model", "missing_required_parameter"),
    ({"model": 3}, "model", "invalid_type"),
    ({"model": "gpt-4"}, "model", "model_not_found"),
    ({"model": "GOOGLE/gemma-3n-e4b-it"}, "model", "model_not_found"),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": "hi"}, "messages", "invalid_type"),
    ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": "me", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role", "invalid_type"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "unsupported_parameter"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    (
        {"messages": [{"role": "user", "content": "x", "name": 1}]},
        "messages[0].name",
        "invalid_type",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
        "messages[0].tool_calls",
        "unsupported_parameter",
    ),
]


@pytest.mark.parametrize(
    ("fields", "param", "code"), REFUSED, ids=[str(r[0])[:60] for r in REFUSED]
)
def test_refused(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert param.split(".")[0].split("[")[0] in caught.value.message
    assert len(caught.value.message) < 600


PARTS = [
    ({"type": "file"}, ".file", "missing_required_parameter"),
    ({"type": "file", "file": "x"}, ".file", "invalid_type"),
    ({"type": "file", "file": {}}, ".file.file_data", "missing_required_parameter"),
    ({"type": "file", "file": {"file_data": 1}}, ".file.file_data", "invalid_type"),
    ({"type": "file", "file": {"file_data": "QQ=="}}, ".file.file_data", "invalid_file"),
    ({"type": "file", "file": {"file_data": "%%%"}}, ".file.file_data", "invalid_value"),
    (
        {"type": "file", "file": {"file_data": "data:image/png;base64,QQ=="}},
        ".file.file_data",
        "unsupported_content_part",
    ),
    ({"type": "file", "file": {"file_id": "f"}}, ".file.file_id", "unsupported_parameter"),
    (
        {"type": "file", "file": {"file_data": "A" * 2**21}},
        ".file.file_data",
        "string_above_max_length",
    ),
    (
        {"type": "file", "file": {"file_data": "JVBERi0=", "filename": 1}},
        ".file.filename",
        "invalid_type",
    ),
    ({"type": "image_url", "image_url": {"url": "x"}}, "", "unsupported_content_part"),
    ({"type": "input_audio", "input_audio": {}}, "", "unsupported_content_part"),
    ({"type": "pony"}, ".type", "invalid_value"),
    ({"type": 3}, ".type", "invalid_type"),
    ({"text": "x"}, ".type", "missing_required_parameter"),
    ({"type": "text"}, ".text", "missing_required_parameter"),
    ({"type": "text", "text": 4}, ".text", "invalid_type"),
    ({"type": "refusal", "refusal": "no"}, ".type", "invalid_value"),
    ("text", "", "invalid_type"),
]


@pytest.mark.parametrize(("part", "tail", "code"), PARTS, ids=[str(p[0]) for p in PARTS])
def test_refused_part_is_named_by_index(part: object, tail: str, code: str) -> None:
    content = [{"type": "text", "text": "a"}, part]
    with pytest.raises(InvalidRequestError) as caught:
        read(messages=[{"role": "user", "content": content}])
    assert caught.value.param == f"messages[0].content[1]{tail}"
    assert caught.value.code == code


def test_content_forms() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": parts},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": ""},
    ]
    assert [(m.role, m.text) for m in messages_of(read(messages=messages))] == [
        ("system", "s"),
        ("developer", "ab"),
        ("assistant", ""),
        ("assistant", "no"),
        ("user", ""),
    ]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_content_of_no_parts_is_refused(role: str) -> None:
    with pytest.raises(InvalidRequestError, match="empty array") as caught:
        read(messages=[{"role": role, "content": []}])
    assert (caught.value.param, caught.value.code) == ("messages[0].content", "empty_array")


EMPTY: tuple[object, ...] = (None, [], {})
CALLS: tuple[object, ...] = (False, 0, "", {"id": "1"}, [{}])


@pytest.mark.parametrize("name", ["tool_calls", "function_call", "audio"])
def test_calls_are_refused_unless_empty(name: str) -> None:
    for nothing in EMPTY:
        message = {"role": "assistant", "content": "x", name: nothing}
        assert read(messages=[message]).request == read(messages=[{**message, name: None}]).request
    for something in CALLS:
        with pytest.raises(InvalidRequestError, match="not supported") as caught:
            read(messages=[{"role": "assistant", "content": "x", name: something}])
        assert caught.value.param == f"messages[0].{name}"


def test_names_tell_participants_of_one_role_apart() -> None:
    def texts(*names: str | None) -> list[str]:
        messages = [{"role": "user", "content": "x", "name": name} for name in names]
        return [message.text for message in messages_of(read(messages=messages))]

    assert texts("Ann", "Ann", None) == ["x", "x", "x"]
    assert texts("Ann", "Bob", None) == ["Ann: x", "Bob: x", "x"]


NEUTRAL = [
    {"tools": []},
    {"tool_choice": "none"},
    {"tool_choice": "auto"},
    {"response_format": {"type": "text"}},
    {"store": False},
    {"modalities": ["text"]},
    {"parallel_tool_calls": True},
    {"user": "me", "metadata": {"a": "b"}},
    {"best_of": 1},
    {"stream_options": {}},
    {"stream_options": {"include_usage": None}},
]


@pytest.mark.parametrize("fields", NEUTRAL, ids=str)
def test_neutral_values_change_nothing(fields: dict[str, Any]) -> None:
    assert read(**fields) == read()


UNSUPPORTED = [
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("tool_choice", "required"),
    ("tool_choice", {"type": "function", "function": {"name": "f"}}),
    ("response_format", {"type": "json_object"}),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "a"}}),
    ("audio", {"voice": "x"}),
    ("modalities", ["text", "audio"]),
    ("prediction", {"type": "content", "content": "x"}),
    ("reasoning_effort", "low"),
    ("store", True),
    ("store", 0),
    ("best_of", 10**6),
    ("chat_template", "{{ x }}"),
    ("chat_template_kwargs", {"tokenize": False}),
]


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED, ids=str)
def test_what_is_not_done_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequestError, match="not supported") as caught:
        read(**{name: value})
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


def test_unknown_fields_are_reported_and_ignored() -> None:
    body = read(pony=1, min_tokens=5)
    assert body.unknown == ("pony", "min_tokens")
    assert body.request == read().request


def test_unknown_fields_within_are_reported_too() -> None:
    part = {"type": "text", "text": "hi", "cache_control": {}}
    told: dict[str, Any] = {
        "content": "x",
        "refusal": None,
        "annotations": [],
        "reasoning_content": None,
    }
    messages = [
        {"role": "user", "content": [part, part], "mood": 5, "tool_call_id": None},
        {"role": "assistant", **told},
    ]
    options = {"include_usage": True, "include_obfuscation": False}
    body = read(messages=messages, stream_options=options)
    assert body.unknown == (
        "messages[].content[].cache_control",
        "messages[].mood",
        "stream_options.include_obfuscation",
    )


def test_message_of_the_contract() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(temperature=200)
    assert caught.value.message == (
        "Invalid 'temperature': decimal above maximum value. "
        "Expected a value <= 2, but got 200 instead."
    )


def test_wrong_model_lists_the_right_ones() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        read(model="x" * 1000)
    assert "'google/gemma-3n-e4b-it' | 'nestling-nano' | 'nano'" in caught.value.message


BAD_JSON = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"{'a': 1}",
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1e400}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": 1, "a": 2}',
    b'{"x": {"a": 1, "a": 2}}',
    b'{"a": "\\ud800"}',
    b'{"\\uDC00": 1}',
    b'{"a": [["\\ud83d x"]]}',
    b'{"a": "\x00"}',
    b'{"a": "\xff"}',
    b'\xef\xbb\xbf{"a": 1}',
    '{"a": 1}'.encode("utf-16"),
    b'{"a":' * 100_000,
    b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"a": 1} x',
    b'{"a": 01}',
]


@pytest.mark.parametrize("body", BAD_JSON, ids=[repr(b[:24]) for b in BAD_JSON])
def test_json_that_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_json_object(body)
    assert caught.value.code == "invalid_json"
    assert len(caught.value.message) < 300


def test_json_that_is_fine() -> None:
    assert parse_json_object('{"a": "\\ud83d\\udc4b 👋\\u0000"}'.encode()) == {"a": "👋 👋\x00"}


quick = settings(max_examples=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=6,
)


def outcome(action: Callable[[], Any]) -> Any:
    """What `action` returns, or its refusal."""
    try:
        return action()
    except InvalidRequestError as error:
        return error


@quick
@given(st.dictionaries(st.sampled_from(sorted(KNOWN_FIELDS)), JSON))
def test_any_value_is_accepted_or_refused_by_name(fields: dict[str, Any]) -> None:
    result = outcome(lambda: read_chat_body(chat_body(**fields), NAMES, LIMITS).request)
    if isinstance(result, InvalidRequestError):
        assert result.param
    else:
        for field, (least, most) in RANGES.items():
            value = getattr(result.sampling, field)
            assert value is None or least <= value <= most


@quick
@given(st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_body_is_an_object_or_refused(body: bytes) -> None:
    result = outcome(lambda: parse_json_object(body))
    assert isinstance(result, dict) or result.code == "invalid_json"


@quick
@given(st.sampled_from(sorted(FIELDS)), st.integers(-(10**300), 10**300) | st.floats())
def test_numbers_never_break_the_reader(name: str, value: float) -> None:
    result = outcome(lambda: read(**{name: value}))
    assert not isinstance(result, InvalidRequestError) or result.param == name
