"""The app in this process: bodies, frames, errors of every kind, headers, routes, access."""

import json
import re
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from nestling.api.app import create_app
from nestling.api.auth import Access, GuardedEndpoint
from nestling.errors import (
    AuthenticationError,
    ContextLengthExceededError,
    EngineError,
    EngineRestartedError,
    ModelFileError,
    OverloadedError,
    StoreError,
)
from nestling.log import configure_logging
from nestling.settings import Settings

from .conftest import AUTH, FakeChat, FakeKeys, chat_body, healthy

PATH = "/v1/chat/completions"
ID = re.compile(r"gen-\d{10}-[0-9A-Za-z]{20}")


async def post(client: httpx.AsyncClient, body: Any = None, **headers: str) -> httpx.Response:
    return await client.post(PATH, json=body or chat_body(), headers={**AUTH, **headers})


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
    }


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


async def test_status_switch(chat: FakeChat, keys: FakeKeys, settings: Settings) -> None:
    app = create_app(chat, keys, settings.model_copy(update={"success_status": 200}), healthy)
    async with client_of(app) as client:
        assert (await post(client)).status_code == 200
        assert (await post(client, chat_body(stream=True))).status_code == 200


def client_of(app: Starlette, host: str = "localhost") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")


async def test_without_v1(client: httpx.AsyncClient) -> None:
    response = await client.post("/chat/completions", json=chat_body(), headers=AUTH)
    assert response.status_code == 201


def check_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body = response.json()
    assert list(body) == ["error", "message", "path", "requestId", "statusCode", "timestamp"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert response.status_code == body["statusCode"] == status
    assert body["error"]["code"] == code
    assert body["error"]["message"] == body["message"]
    assert body["requestId"] == response.headers["x-request-id"]
    assert body["path"] == httpx.URL(response.request.url).path
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    assert "Traceback" not in response.text
    assert "0x" not in response.text
    return body


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
    keys: FakeKeys,
    settings: Settings,
    method: str,
    path: str,
    headers: dict[str, str],
    content: bytes,
    status: int,
    code: str,
) -> None:
    app = create_app(chat, keys, settings.model_copy(update={"max_body_bytes": 2**20}), healthy)
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


async def test_stream_without_an_end_is_an_error(client: httpx.AsyncClient, chat: FakeChat) -> None:
    chat.pieces, chat.error, chat.error_after = ("a",), StopAsyncIteration(), 1
    *_, last = frames(await post(client, chat_body(stream=True)))
    assert last["error"]["code"] == "internal_error"


BAD_AUTHORIZATIONS = [
    [],
    ["Bearer"],
    ["Bearer "],
    ["Bearer wrong"],
    ["Basic g3n_live_test"],
    ["g3n_live_test"],
    ["Bearer g3n_live_test x"],
    ["Bearer g3n_live_test", "Bearer g3n_live_test"],
    ["Bearer x' OR (SELECT pg_sleep(8)) IS NOT NULL--"],
    ["Bearer g3n_live_test\x00"],
    ["Bearer g3n_live_tést"],
    ["Bearer " + "x" * 2**20],
]


@pytest.mark.parametrize(
    "values", BAD_AUTHORIZATIONS, ids=[str(v)[:40] for v in BAD_AUTHORIZATIONS]
)
async def test_bad_authorization(
    client: httpx.AsyncClient, chat: FakeChat, values: list[str]
) -> None:
    headers = [(b"authorization", value.encode("latin-1")) for value in values]
    response = await client.post(PATH, content=b"not even read", headers=headers)
    check_error(response, 401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert chat.requests == []


async def test_scheme_has_no_case(client: httpx.AsyncClient) -> None:
    headers = {"Authorization": "bEARER   g3n_live_test"}
    assert (await client.post(PATH, json=chat_body(), headers=headers)).status_code == 201


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (AuthenticationError("off", code="api_key_disabled"), 401, "api_key_disabled"),
        (AuthenticationError("old", code="api_key_expired"), 401, "api_key_expired"),
        (StoreError("locked"), 503, "store_error"),
        (RuntimeError("bug"), 500, "internal_error"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_authentication_fails_closed(
    client: httpx.AsyncClient,
    keys: FakeKeys,
    chat: FakeChat,
    error: Exception,
    status: int,
    code: str,
) -> None:
    keys.error = error
    check_error(await post(client), status, code)
    assert chat.requests == []


def test_every_route_has_an_access_class(app: Starlette) -> None:
    found = {}
    for route in app.routes:
        assert isinstance(route, Route)
        assert isinstance(route.endpoint, GuardedEndpoint)
        found[route.path] = route.endpoint.access
    assert {path for path, access in found.items() if access is Access.PUBLIC} == {
        "/v1/models",
        "/models",
        "/v1/models/{model_id:path}",
        "/models/{model_id:path}",
        "/livez",
        "/readyz",
    }


async def test_keyed_routes_refuse_without_a_key(app: Starlette, client: httpx.AsyncClient) -> None:
    keyed = [r for r in app.routes if r.endpoint.access is not Access.PUBLIC]
    assert len(keyed) == 2
    for route in keyed:
        for method in route.methods:
            check_error(await client.request(method, route.path), 401, "invalid_api_key")


async def test_headers(client: httpx.AsyncClient) -> None:
    response = await post(client, **{"x-client-request-id": "a.B_c:9-"})
    assert response.headers["x-client-request-id"] == "a.B_c:9-"
    assert response.headers["x-inference-id"] == response.json()["id"]
    assert int(response.headers["openai-processing-ms"]) >= 0
    assert response.headers["openai-version"] == "2020-10-01"
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("value", ["a b", "x" * 129, "ü", "a\tb", ""])
async def test_bad_client_request_id_is_dropped(client: httpx.AsyncClient, value: str) -> None:
    response = await client.get(
        "/livez", headers=[(b"x-client-request-id", value.encode("latin-1"))]
    )
    assert response.status_code == 200
    assert "x-client-request-id" not in response.headers


async def test_models(client: httpx.AsyncClient) -> None:
    listing = (await client.get("/v1/models")).json()
    assert listing["object"] == "list"
    assert [m["id"] for m in listing["data"]] == [
        "google/gemma-3n-e4b-it",
        "nestling-nano",
        "nano",
    ]
    for model in listing["data"]:
        assert {"object", "created", "owned_by", "type", "aliases", "info", "tags"} <= set(model)
        assert model["served_by"] == "nestling-nano"
        assert (await client.get(f"/v1/models/{model['id']}")).json() == model
        assert (await client.get(f"/models/{model['id']}")).json() == model


async def test_health(chat: FakeChat, keys: FakeKeys, settings: Settings) -> None:
    async def sick() -> None:
        raise EngineError("it is gone")

    app = create_app(chat, keys, settings, sick)
    async with client_of(app) as client:
        assert (await client.get("/livez")).status_code == 200
        check_error(await client.get("/readyz"), 503, "engine_error")


async def test_draining(app: Starlette, client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).status_code == 200
    app.state.lifecycle.drain()
    check_error(await client.get("/readyz"), 503, "server_shutdown")
    check_error(await post(client), 503, "server_shutdown")
    assert (await client.get("/livez")).status_code == 200


HOSTS = [
    ("localhost:8000", 200),
    ("127.0.0.1", 200),
    ("[::1]:80", 200),
    ("app.localhost", 200),
    ("evil.test", 421),
    ("evil.test:8000", 421),
    ("localhost.evil.test", 421),
    ("a/docs?x=", 400),
    ("127.0.0.1/livez?", 400),
    ("localhost:x", 400),
    ("", 400),
    ("user@localhost", 400),
]


@pytest.mark.parametrize(("host", "status"), HOSTS)
async def test_host(client: httpx.AsyncClient, host: str, status: int) -> None:
    response = await client.get("/livez", headers={"host": host, "origin": "http://evil.test"})
    assert response.status_code == status


async def test_allowed_hosts(chat: FakeChat, keys: FakeKeys, settings: Settings) -> None:
    named = settings.model_copy(update={"allowed_hosts": ("Nest.example",), "host": "192.0.2.1"})
    open_to_all = settings.model_copy(update={"host": "192.0.2.1"})
    async with client_of(create_app(chat, keys, named, healthy), "nest.EXAMPLE") as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/livez", headers={"host": "other"})).status_code == 421
    async with client_of(create_app(chat, keys, open_to_all, healthy), "other") as client:
        assert (await client.get("/livez")).status_code == 200


async def test_preflight_needs_no_key(client: httpx.AsyncClient) -> None:
    headers = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-stainless-os",
    }
    response = await client.options(PATH, headers=headers)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in response.headers


async def test_cors_on_answers_and_errors(client: httpx.AsyncClient, chat: FakeChat) -> None:
    chat.prepare_error = RuntimeError()
    for headers, status in ((AUTH, 500), ({}, 401)):
        response = await client.post(
            PATH, json=chat_body(), headers={**headers, "origin": "https://app.example"}
        )
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == "*"
        assert "x-request-id" in response.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in (await post(client)).headers


async def test_cors_with_listed_origins(chat: FakeChat, keys: FakeKeys, settings: Settings) -> None:
    ours = settings.model_copy(update={"cors_origins": ("https://a.example",)})
    async with client_of(create_app(chat, keys, ours, healthy)) as client:
        yes = await client.get("/v1/models", headers={"origin": "https://a.example"})
        no = await client.options(PATH, headers={"origin": "https://b.example"})
    assert yes.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in no.headers


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
