"""Any bytes as the body of a request, over a real socket: an answer or the one error envelope.

Never a 500, never a broken connection, never an echo of what the body held beyond a few hundred
characters. `NESTLING_TEST_EXAMPLES` is how many bodies each test sends.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.api.requests.chat import KNOWN_FIELDS
from nestling.api.requests.completions import COMPLETION_FIELDS
from tests.api.conftest import FakeChat
from tests.api.threaded import ThreadedServer, threaded_server

NUM_EXAMPLES = int(os.environ.get("NESTLING_TEST_EXAMPLES", "50"))
PATHS = st.sampled_from(["/v1/chat/completions", "/v1/completions"])
fuzz = settings(
    max_examples=NUM_EXAMPLES,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedServer]:
    with threaded_server(FakeChat(), tmp_path_factory.mktemp("fuzz")) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ThreadedServer) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=20) as client:
        yield client


def check(response: httpx.Response) -> None:
    """An answer, or a 400 in the one envelope."""
    if response.status_code == 201:
        return
    assert response.status_code == 400, response.text
    body = response.json()
    assert list(body) == ["error", "message", "path", "requestId", "statusCode", "timestamp"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["statusCode"] == 400
    assert body["message"] == body["error"]["message"]
    assert body["error"]["type"] == "invalid_request_error"
    assert body["requestId"] == response.headers["x-request-id"]
    assert len(body["message"]) < 1000


text = st.text(max_size=20)


def json_values(floats: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    """Values of every JSON type, nested a little."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | floats | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=8,
    )


values = json_values(st.floats())  # NaN and Infinity too, which Python writes as such
finite_values = json_values(st.floats(allow_nan=False, allow_infinity=False))
names = st.sampled_from(sorted({*KNOWN_FIELDS, *COMPLETION_FIELDS, "prompt"})) | text
parts = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "file", "image_url", "refusal", "input_audio"]) | values,
        "text": values,
        "file": values
        | st.fixed_dictionaries({}, optional={"file_data": values, "file_id": values}),
        "refusal": values,
    },
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]) | values,
        "content": st.lists(parts | values, max_size=3) | values,
        "name": values,
        "tool_calls": values,
    },
)
bodies = st.builds(
    lambda base, more: base | more,
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.just("nestling-nano") | values,
            "messages": st.lists(messages, max_size=3) | values,
            "prompt": values,
        },
    ),
    st.dictionaries(names, values, max_size=5),
)


@fuzz
@given(path=PATHS, body=st.binary(max_size=300))
def test_any_bytes(client: httpx.Client, path: str, body: bytes) -> None:
    check(client.post(path, content=body))


@fuzz
@given(path=PATHS, body=bodies)
def test_any_json(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    check(client.post(path, content=json.dumps(body)))


@fuzz
@given(path=PATHS, body=bodies, data=st.data())
def test_broken_json(client: httpx.Client, path: str, body: dict[str, Any], data: Any) -> None:
    """A good document with some bytes cut out, doubled or put in, and other encodings of it."""
    encoding = data.draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig", "latin-1"]))
    content = json.dumps(body, ensure_ascii=False).encode(encoding, "replace")
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    middle = data.draw(st.just(content[start:end] * 2) | st.binary(max_size=5))
    check(client.post(path, content=content[:start] + middle + content[end:]))


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Each field absent, null or one of its valid values."""
    return st.fixed_dictionaries({}, optional={k: st.none() | v for k, v in fields.items()})


valid_text = st.text(st.characters(codec="utf-8"), max_size=30)
valid_messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "developer", "user", "assistant"]),
            "content": valid_text
            | st.lists(
                st.fixed_dictionaries({"type": st.just("text"), "text": valid_text}), min_size=1
            ),
        },
        optional={"name": valid_text | st.none()},
    ),
    min_size=1,
    max_size=4,
)
tokens = st.integers(1, 2**31 - 1)
stops = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10)
valid_fields = optional(
    max_completion_tokens=tokens,
    max_tokens=tokens | st.floats(1, 1e6),
    stream=st.booleans(),
    stream_options=st.fixed_dictionaries({"include_usage": st.booleans()}),
    temperature=st.floats(0, 2) | st.integers(0, 2),
    top_p=st.floats(0.01, 1),
    seed=st.integers(1, 2**63 - 1),
    min_p=st.floats(0, 1),
    top_k=st.floats(-1, 1e300) | st.integers(-1),
    repetition_penalty=st.floats(0, 1e300, exclude_min=True),
    top_a=st.floats(0, 1),
    stop=stops | st.lists(stops, max_size=4),
    logit_bias=st.dictionaries(
        st.integers(0, 262_143).map(str) | st.text("abcäß안", min_size=1), st.floats(-100, 100)
    ),
    n=st.integers(1, 8),
    frequency_penalty=st.floats(-2, 2),
    presence_penalty=st.floats(-2, 2),
    logprobs=st.just(True),
    user=valid_text,
    metadata=st.dictionaries(valid_text, valid_text),
    store=st.just(False),
    tools=st.just([]),
    response_format=st.just({"type": "text"}),
)


@fuzz
@given(messages=valid_messages, fields=valid_fields, unknown=st.dictionaries(text, finite_values))
def test_valid_bodies_are_accepted(
    client: httpx.Client, messages: Any, fields: dict[str, Any], unknown: dict[str, Any]
) -> None:
    """Every documented field within its bounds, in every combination, and fields nobody knows."""
    extra = {k: v for k, v in unknown.items() if k not in {*KNOWN_FIELDS, *fields}}
    body = {**extra, "model": "google/gemma-3n-e4b-it", "messages": messages, **fields}
    response = client.post("/v1/chat/completions", content=json.dumps(body))
    assert response.status_code == 201, response.text
