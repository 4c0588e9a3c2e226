"""The chat endpoint in this process: bodies, frames, and errors of every kind."""

import json
import re
from typing import Any

import httpx
import pytest

from nestling.accounts.accounts import Accounts
from nestling.accounts.key_records import NewKey
from nestling.api.app import create_app
from nestling.errors import (
    ContextLengthExceededError,
    EngineError,
    EngineRestartedError,
    ModelFileError,
    OverloadedError,
    StoreError,
)
from nestling.log import configure_logging
from nestling.settings import Settings
from tests.api.conftest import AUTH, FakeChat, chat_body, healthy
from tests.api.helpers import PATH, check_error, client_of, post

ID = re.compile(r"gen-\d{10}-[0-9A-Za-z]{20}")


def frames(response: httpx.Response) -> list[Any]:
    """The decoded frames; every event is one data line and an empty line."""
    events = response.text.split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [e if e == "[DONE]" else json.loads(e) for e in (event[6:] for event in events)]


async def test_whole_body_key_for_key(client: httpx.AsyncClient) -> None:
    response = await post(client)
    body = response.json()
    assert response.status_code == 201
    assert ID.fullmatch(body.pop("id"))
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion",
        "model": "nestling-nano",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello there 👋",
                    "refusal": None,
                    "reasoning_content": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "system_fingerprint": "fp_0123456789ab",
        "meta": {"usage": {"credits_used": 1, "usd_spent": 2.6e-07}},
    }


async def test_cached_prompts_serve_the_key_that_sent_them(
    client: httpx.AsyncClient, chat: FakeChat, accounts: Accounts
) -> None:
    """Each key's requests carry a salt of their own into the engine, streamed or not."""
    key, secret = await accounts.keys.create(NewKey(name="another"))
    for headers in (AUTH, {"Authorization": f"Bearer {secret}"}):
        for stream in (False, True):
            answer = await client.post(PATH, json=chat_body(stream=stream), headers=headers)
            assert answer.status_code == 201
    salts = [request.cache_salt for request in chat.requests]
    assert salts[0] == salts[1] != ""
    assert salts[2:] == [key.key_id] * 2
    assert salts[0] != key.key_id


async def test_stream_frames_key_for_key(client: httpx.AsyncClient) -> None:
    response = await post(client, chat_body(stream=True, stream_options={"include_usage": True}))
    assert response.status_code == 201
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *chunks, done = frames(response)
    assert done == "[DONE]"
    first, last = chunks[0], chunks[-1]
    assert ID.fullmatch(first["id"])
    assert {c["id"] for c in chunks} == {response.headers["x-inference-id"]}
    assert list(first) == [
        "id",
        "object",
        "created",
        "model",
        "system_fingerprint",
        "choices",
        "usage",
    ]
    assert [c["choices"] for c in chunks] == [
        [choice({"role": "assistant", "content": ""})],
        [choice({"content": "Hello"})],
        [choice({"content": " there"})],
        [choice({"content": " 👋"})],
        [choice({}, "stop")],
        [],
    ]
    assert [c["usage"] for c in chunks[:-1]] == [None] * 5
    assert last["usage"]["total_tokens"] == 10


def choice(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


async def test_usage_only_when_asked(client: httpx.AsyncClient) -> None:
    *chunks, _ = frames(await post(client, chat_body(stream=True)))
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


async def test_choices_of_a_stream(client: httpx.AsyncClient) -> None:
    *chunks, _ = frames(await post(client, chat_body(stream=True, n=3, logprobs=True)))
    for index in range(3):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert [c["delta"].get("role") for c in mine] == ["assistant", *[None] * 4]
        assert [c["finish_reason"] for c in mine] == [*[None] * 4, "stop"]
        tokens = [t for c in mine if c["logprobs"] for t in c["logprobs"]["content"]]
        assert [t["token"] for t in tokens] == ["Hello", " there", " 👋"]
        assert tokens[0]["top_logprobs"] == []


async def test_status_switch(chat: FakeChat, accounts: Accounts, settings: Settings) -> None:
    app = create_app(chat, accounts, settings.model_copy(update={"success_status": 200}), healthy)
    async with client_of(app) as client:
        assert (await post(client)).status_code == 200
        assert (await post(client, chat_body(stream=True))).status_code == 200


async def test_without_v1(client: httpx.AsyncClient) -> None:
    response = await client.post("/chat/completions", json=chat_body(), headers=AUTH)
    assert response.status_code == 201


REFUSED_REQUESTS = [
    ("GET", "/nothing", {}, b"", 404, "not_found"),
    ("GET", "/livez/", {}, b"", 404, "not_found"),
    ("GET", "//livez", {}, b"", 404, "not_found"),
    ("GET", "/v1/models/", {}, b"", 404, "model_not_found"),
    ("GET", PATH, AUTH, b"", 405, "method_not_allowed"),
    ("POST", "/v1/models", {}, b"", 405, "method_not_allowed"),
    ("GET", "/v1/models/a/b", {}, b"", 404, "model_not_found"),
    ("POST", PATH, AUTH, b"{}", 415, "unsupported_media_type"),
    ("POST", PATH, {"content-type": "text/plain"}, b"{}", 415, "unsupported_media_type"),
    (
        "POST",
        PATH,
        {"content-type": "application/json; charset=latin-1"},
        b"{}",
        415,
        "unsupported_media_type",
    ),
    (
        "POST",
        PATH,
        {"content-type": "application/json", "content-encoding": "gzip"},
        b"{}",
        415,
        "unsupported_media_type",
    ),
    ("POST", PATH, {"content-type": "application/json"}, b"{", 400, "invalid_json"),
    ("POST", PATH, {"content-type": "application/json"}, b"{}", 400, "missing_required_parameter"),
    (
        "POST",
        PATH,
        {"content-type": "application/json"},
        b"[" * 2**21,
        413,
        "request_too_large",
    ),
]


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "status", "code"),
    REFUSED_REQUESTS,
    ids=[f"{r[0]} {r[1]} {r[2].get('content-type', '')} {r[5]}" for r in REFUSED_REQUESTS],
)
async def test_refusals(
    chat: FakeChat,
    accounts: Accounts,
    settings: Settings,
    method: str,
    path: str,
    headers: dict[str, str],
    content: bytes,
    status: int,
    code: str,
) -> None:
    app = create_app(chat, accounts, settings.model_copy(update={"max_body_bytes": 2**20}), healthy)
    async with client_of(app) as client:
        response = await client.request(method, path, headers=headers | AUTH, content=content)
    check_error(response, status, code)
    assert chat.requests == []
    if status == 405:
        assert response.headers["allow"]


ERRORS = [
    (ContextLengthExceededError("too long", param="messages"), 400, "context_length_exceeded"),
    (OverloadedError("full", retry_after_s=7), 503, "overloaded"),
    (EngineRestartedError("pid 5 died"), 503, "engine_restarted"),
    (EngineError("layer 3 /home/me"), 500, "engine_error"),
    (StoreError("/home/me/accounts.db"), 503, "store_error"),
    (ModelFileError("/home/me/x", "bad"), 500, "internal_error"),
    (RuntimeError("0x7f00 /home/me"), 500, "internal_error"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("at", ["prepare", "first delta"])
@pytest.mark.parametrize(("error", "status", "code"), ERRORS, ids=[e[2] for e in ERRORS])
async def test_errors_before_the_first_byte(
    client: httpx.AsyncClient,
    chat: FakeChat,
    stream: bool,
    at: str,
    error: Exception,
    status: int,
    code: str,
) -> None:
    if at == "prepare":
        chat.prepare_error = error
    else:
        chat.error = error
    response = await post(client, chat_body(stream=stream))
    check_error(response, status, code)
    assert "/home" not in response.text
    if isinstance(error, OverloadedError):
        assert response.headers["retry-after"] == "7"
    if status == 503:
        assert "retry-after" in response.headers


async def test_error_frame(client: httpx.AsyncClient, chat: FakeChat) -> None:
    chat.error, chat.error_after = EngineRestartedError("pid 5 died"), 1
    response = await post(client, chat_body(stream=True))
    assert response.status_code == 201
    *_, last = frames(response)
    assert last["error"]["type"] == "engine_error"
    assert last["error"]["code"] == "engine_restarted"
    assert "pid" not in last["error"]["message"]


async def test_choice_without_an_end_is_an_error(client: httpx.AsyncClient, chat: FakeChat) -> None:
    chat.finishes = False
    *_, last = frames(await post(client, chat_body(stream=True)))
    assert last["error"]["code"] == "engine_error"
    check_error(await post(client), 500, "engine_error")


async def test_unknown_field_is_logged_once(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info", "json")
    for _ in range(2):
        assert (await post(client, chat_body(pony="the text of it"))).status_code == 201
    captured = capsys.readouterr()
    output = captured.out + captured.err
    assert output.count("unknown field ignored") == 1
    assert "the text of it" not in output
    assert "hi" not in re.findall(r"\w+", output)
