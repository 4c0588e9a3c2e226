"""Types and bounds of every field, generated from one table, and the decisions, over a socket."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from nestling.api.requests.chat import FIELDS, OTHER_FIELDS, SHAPED_FIELDS
from nestling.chat.sampling import SAMPLING_FIELDS
from nestling.engine.clients.messages import SamplingParams
from tests.api.conftest import FakeChat, chat_body
from tests.api.helpers import PATH, check_error
from tests.api.threaded import ThreadedServer, threaded_server

NUMBERS = ["temperature", "top_p", "min_p", "top_a", "top_k", "max_tokens", "repetition_penalty"]
NUMBERS += ["frequency_penalty", "presence_penalty"]
INTEGERS = ("max_completion_tokens", "seed", "n", "top_logprobs")
TYPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(NUMBERS, ("integer", "decimal")),
    **dict.fromkeys(INTEGERS, ("integer",)),
    **dict.fromkeys(("stream", "logprobs"), ("boolean",)),
    **dict.fromkeys(("stream_options", "logit_bias", "metadata"), ("object",)),
    "user": ("string",),
    "stop": ("string", "array"),
    "model": ("string",),
    "messages": ("array",),
}
"""The JSON types that each field takes; null is absence for all but the two required ones."""
VALUES: dict[str, list[Any]] = {
    "string": ["1", "", "true"],
    "integer": [1, 0],
    "decimal": [1.5],
    "boolean": [True, False],
    "array": [[], [1]],
    "object": [{}, {"a": 1}],
}
WRONG_TYPES = [
    (name, value)
    for name, types in TYPES.items()
    for kind, values in VALUES.items()
    for value in values
    if kind not in types
]
BOUNDS = [
    # name, values at the bounds, values just outside
    ("temperature", [0, 2, 2.0], [-1e-9, 2.000001, -1]),
    ("top_p", [0.01, 1], [0.0099, 0, 1.0001, -1]),
    ("min_p", [0, 1], [-0.0001, 1.0001]),
    ("top_a", [0, 1], [-0.0001, 1.0001]),
    ("top_k", [-1, 0, 0.5, 1, 262_144, 1e300], [-1.0001, -2]),
    ("repetition_penalty", [1e-300, 1, 2, 1e300], [0, -0.0, -1]),
    ("frequency_penalty", [-2, 0, 2], [-2.0001, 2.0001]),
    ("presence_penalty", [-2, 0, 2], [-2.0001, 2.0001]),
    ("seed", [1, 2**63 - 1], [0, -1, 2**63]),
    ("max_tokens", [1, 1.0, 1.9, 2**31 - 1], [0, 0.99, -1, 2**31]),
    ("max_completion_tokens", [1, 1.0, 2**31 - 1], [0, -1, 2**31]),
    ("n", [1, 8], [0, 9, -1]),
]


@pytest.fixture(scope="module")
def chat() -> FakeChat:
    return FakeChat()


@pytest.fixture(scope="module")
def server(chat: FakeChat, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedServer]:
    with threaded_server(chat, tmp_path_factory.mktemp("rules")) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ThreadedServer) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=20) as client:
        yield client


def post(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post(PATH, content=json.dumps(chat_body(**fields)))


def test_the_table_has_every_field() -> None:
    assert set(TYPES) == {*FIELDS, *SHAPED_FIELDS, *OTHER_FIELDS}
    assert {name for name, _, _ in BOUNDS} >= {*SAMPLING_FIELDS, "n"}


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES, ids=lambda v: json.dumps(v))
def test_wrong_types_are_refused(client: httpx.Client, name: str, value: Any) -> None:
    fields = {"logprobs": True} if name == "top_logprobs" else {}
    error = check_error(post(client, **{**fields, name: value}), 400, "invalid_type")["error"]
    assert error["param"] == name
    assert error["message"].startswith(f"Invalid type for '{name}': expected a")
    assert "but got a" in error["message"]


@pytest.mark.parametrize(("name", "good", "bad"), BOUNDS, ids=[b[0] for b in BOUNDS])
def test_bounds(client: httpx.Client, name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert post(client, **{name: value}).status_code == 201, value
    for value in bad:
        answer = post(client, **{name: value})
        code = answer.json()["error"]["code"]
        assert check_error(answer, 400, code)["error"]["param"] == name, value
        kind = "integer" if isinstance(FIELDS.get(name), type(FIELDS["seed"])) else "decimal"
        kind = "integer" if name.startswith("max_") else kind
        where = "below_min" if value < good[0] or value <= 0 else "above_max"
        assert code == f"{kind}_{where}_value", value


@pytest.mark.parametrize("name", sorted(TYPES))
def test_null_is_absent_but_for_what_is_required(client: httpx.Client, name: str) -> None:
    response = post(client, **{name: None})
    if name in ("model", "messages"):
        check_error(response, 400, "missing_required_parameter")
    else:
        assert response.status_code == 201


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
def test_what_json_does_not_know_is_refused(client: httpx.Client, text: str) -> None:
    body = json.dumps(chat_body(temperature=0)).replace(
        '"temperature": 0', f'"temperature": {text}'
    )
    check_error(client.post(PATH, content=body), 400, "invalid_json")


DECISIONS = [
    ("success is 201", {}, 201, None),
    ("a stream's too", {"stream": True}, 201, None),
    ("wrong model", {"model": "gpt-4"}, 400, "model_not_found"),
    ("min_p 0", {"min_p": 0}, 201, None),
    ("min_p 1", {"min_p": 1}, 201, None),
    ("both max_*", {"max_tokens": 5, "max_completion_tokens": 9}, 201, None),
    ("stream_options alone", {"stream_options": {"include_usage": True}}, 201, None),
    ("stream_options empty", {"stream": True, "stream_options": {}}, 201, None),
    ("logit_bias by text", {"logit_bias": {"ANY_ADDITIONAL_PROPERTY": 1}}, 201, None),
    ("logit_bias above", {"logit_bias": {"5": 100.5}}, 400, "decimal_above_max_value"),
    ("logit_bias below", {"logit_bias": {"5": -101}}, 400, "decimal_below_min_value"),
    ("unknown fields", {"pony": {"a": [1]}}, 201, None),
    ("stop strings", {"stop": list("abcd")}, 201, None),
    ("too many of them", {"stop": list("abcde")}, 400, "array_above_max_length"),
]


@pytest.mark.parametrize(
    ("fields", "status", "code"), [d[1:] for d in DECISIONS], ids=[d[0] for d in DECISIONS]
)
def test_decisions(
    client: httpx.Client, fields: dict[str, Any], status: int, code: str | None
) -> None:
    response = post(client, **fields)
    if code is None:
        assert response.status_code == status
    else:
        check_error(response, status, code)


def test_the_smaller_of_both_counts_and_nothing_is_a_default(
    client: httpx.Client, chat: FakeChat
) -> None:
    for fields, wanted in (
        ({"max_tokens": 5, "max_completion_tokens": 9}, 5),
        ({"max_tokens": 9.9, "max_completion_tokens": 5}, 5),
        ({}, 512),
    ):
        post(client, **fields)
        assert chat.requests[-1].sampling.max_tokens == wanted
    assert chat.requests[-1].sampling == SamplingParams()


def test_a_200_for_clients_that_insist(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("ok")
    change = {"success_status": 200}
    with threaded_server(FakeChat(), folder, lambda s: s.model_copy(update=change)) as server:
        headers = {"Authorization": f"Bearer {server.api_key}"}
        for path, body in (
            (PATH, chat_body()),
            (PATH, chat_body(stream=True)),
            ("/v1/completions", {"model": "nano", "prompt": "x"}),
        ):
            answer = httpx.post(server.url + path, json=body, headers=headers)
            assert answer.status_code == 200


SAID = [
    ({"max_tokens": "5"}, "expected a decimal, but got a string"),
    ({"stop": 5}, "expected a string or an array of strings, but got an integer"),
    ({"store": True}, "not supported by this server: expected false or null, but got true"),
    ({"tools": [{}]}, "not supported by this server: expected [] or null, but got an array"),
    (
        {"response_format": {"type": "json_object"}},
        'expected {"type": "text"} or null, but got an object of type \'json_object\'',
    ),
    ({"response_format": {"type": []}}, "but got an object instead"),
    ({"tool_choice": "required"}, 'expected "none" or "auto" or null, but got "required"'),
    ({"modalities": ["audio"]}, 'expected ["text"] or null, but got an array'),
    ({"prediction": 5}, "expected null, but got 5"),
    ({"verbosity": "x" * 500}, f'but got "{"x" * 99}... instead'),
]


@pytest.mark.parametrize(("fields", "said"), SAID, ids=[str(s[0])[:40] for s in SAID])
def test_refusals_say_what_was_expected_and_what_came(
    client: httpx.Client, fields: dict[str, Any], said: str
) -> None:
    (name,) = fields
    body = post(client, **fields).json()
    assert (body["statusCode"], body["error"]["param"]) == (400, name)
    assert said in body["message"]


def test_a_whole_decimal_is_a_neutral_integer(client: httpx.Client) -> None:
    assert post(client, best_of=1.0).status_code == 201
    for fields in ({"best_of": True}, {"parallel_tool_calls": 1}, {"store": 0}):
        check_error(post(client, **fields), 400, "unsupported_parameter")


COMPLETIONS_REFUSED = [
    ({"prompt": None}, "prompt", "missing_required_parameter"),
    ({"prompt": 5}, "prompt", "invalid_type"),
    ({"prompt": []}, "prompt", "empty_array"),
    ({"prompt": [[]]}, "prompt[0]", "empty_array"),
    ({"prompt": ["x", []]}, "prompt[1]", "empty_array"),
    ({"prompt": ["a", 5]}, "prompt[1]", "invalid_type"),
    ({"prompt": [5, "a"]}, "prompt[1]", "invalid_type"),
    ({"prompt": [5, True]}, "prompt[1]", "invalid_type"),
    ({"prompt": [[5], 6]}, "prompt[1]", "invalid_type"),
    ({"prompt": ["a"] * 33}, "prompt", "array_above_max_length"),
    ({"logprobs": 6}, "logprobs", "integer_above_max_value"),
    ({"logprobs": True}, "logprobs", "invalid_type"),
    ({"echo": 1}, "echo", "invalid_type"),
    ({"best_of": 3}, "best_of", "unsupported_parameter"),
    ({"suffix": "end"}, "suffix", "unsupported_parameter"),
    ({"temperature": 3}, "temperature", "decimal_above_max_value"),
    ({"model": "gpt-4"}, "model", "model_not_found"),
]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    COMPLETIONS_REFUSED,
    ids=[str(r[0])[:40] for r in COMPLETIONS_REFUSED],
)
def test_text_completions_refuse(
    client: httpx.Client, fields: dict[str, Any], param: str, code: str
) -> None:
    body = {"model": "nano", "prompt": "x", **fields}
    error = check_error(client.post("/v1/completions", content=json.dumps(body)), 400, code)
    assert error["error"]["param"] == param


def test_text_completions_answer(client: httpx.Client) -> None:
    body = {"model": "nano", "prompt": ["a", "b"], "n": 2, "logprobs": 1, "user": "me"}
    answer = client.post("/v1/completions", content=json.dumps(body)).json()
    assert answer["object"] == "text_completion"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    for choice in answer["choices"]:
        assert choice["text"] == "Hello there 👋"
        assert choice["finish_reason"] == "stop"
        assert set(choice["logprobs"]) == {
            "tokens",
            "token_logprobs",
            "top_logprobs",
            "text_offset",
        }
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    text = client.post("/v1/completions", content=json.dumps(body)).text
    *frames, done, rest = text.split("\n\n")
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert (done, rest) == ("data: [DONE]", "")
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    assert not any("role" in frame for frame in frames)
