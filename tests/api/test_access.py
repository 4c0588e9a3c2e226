"""Who gets in and what they see around the answer: keys, routes, Host, CORS, headers, health."""

from typing import NoReturn

import httpx
import pytest
from starlette.routing import Route

from nestling.accounts.accounts import Accounts
from nestling.api.app import create_app
from nestling.api.auth import Access, GuardedEndpoint
from nestling.engine.clients.messages import Stats
from nestling.errors import AuthenticationError, EngineError, StoreError
from nestling.server.application import Application
from nestling.settings import Settings
from tests.server.test_connections import exchange

from .conftest import AUTH, KEY, FakeChat, chat_body, healthy
from .helpers import PATH, check_error, client_of, guard_of, methods_of, post, routes_of

BAD_AUTHORIZATIONS = [
    [],
    ["Bearer"],
    ["Bearer "],
    ["Bearer wrong"],
    [f"Basic {KEY}"],
    [KEY],
    [f"Bearer {KEY} x"],
    [f"Bearer {KEY}", f"Bearer {KEY}"],
    ["Bearer x' OR (SELECT pg_sleep(8)) IS NOT NULL--"],
    [f"Bearer {KEY}\x00"],
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
    headers = {"Authorization": f"bEARER   {KEY}"}
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
    accounts: Accounts,
    chat: FakeChat,
    error: Exception,
    status: int,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(_secret: str) -> NoReturn:
        raise error

    monkeypatch.setattr(accounts.keys, "authenticate", fail)
    check_error(await post(client), status, code)
    assert chat.requests == []


def test_every_route_has_an_access_class(app: Application) -> None:
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
        "/api/v1/models",
        "/model/{model_id:path}",
        "/models/metrics",
        "/livez",
        "/readyz",
    }


async def test_keyed_routes_refuse_without_a_key(
    app: Application, client: httpx.AsyncClient
) -> None:
    keyed = [
        r for r in routes_of(app) if guard_of(r).access not in {Access.PUBLIC, Access.OPERATOR}
    ]
    assert len(keyed) >= 4
    for route in keyed:
        for method in methods_of(route):
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


PATHS = [
    ("/v1/models", 200),
    ("/%761/models", 200),
    ("/v1/models/google/gemma-3n-e4b-it", 200),
    ("/v1/models/google%2Fgemma-3n-e4b-it", 200),
    ("/model/google%2fgemma-3n-e4b-it", 200),
    ("/v1%2Fmodels", 404),
    ("/v1%2fmodels/google/gemma-3n-e4b-it", 404),
    ("/v1/models%2Fgoogle%2Fgemma-3n-e4b-it", 404),
    ("/v1%2fkey", 404),
    ("//v1/models", 404),
    ("/v1/models/", 404),
    ("/v1/./models", 404),
    ("/livez/../v1/models", 404),
]


@pytest.mark.parametrize(("path", "status"), PATHS)
async def test_paths_are_exact(url: str, path: str, status: int) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert (await exchange(url, head.encode())).startswith(f"HTTP/1.1 {status} ".encode())


async def test_health(chat: FakeChat, accounts: Accounts, settings: Settings) -> None:
    async def sick() -> Stats:
        raise EngineError("it is gone")

    app = create_app(chat, accounts, settings, sick)
    async with client_of(app) as client:
        assert (await client.get("/livez")).status_code == 200
        check_error(await client.get("/readyz"), 503, "engine_error")


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


async def test_allowed_hosts(chat: FakeChat, accounts: Accounts, settings: Settings) -> None:
    named = settings.model_copy(update={"allowed_hosts": ("Nest.example",), "host": "192.0.2.1"})
    open_to_all = settings.model_copy(update={"host": "192.0.2.1"})
    async with client_of(create_app(chat, accounts, named, healthy), "nest.EXAMPLE") as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/livez", headers={"host": "other"})).status_code == 421
    async with client_of(create_app(chat, accounts, open_to_all, healthy), "other") as client:
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


@pytest.mark.parametrize("origin", [{}, {"origin": "https://app.example"}], ids=["none", "one"])
async def test_preflight_has_the_headers_of_every_answer(
    client: httpx.AsyncClient, origin: dict[str, str]
) -> None:
    headers = {**origin, "x-client-request-id": "mine"}
    response = await client.options(PATH, headers=headers)
    assert response.headers["x-inference-id"] == response.headers["x-request-id"]
    assert response.headers["x-client-request-id"] == "mine"
    assert int(response.headers["openai-processing-ms"]) >= 0
    text = (await client.get("/metrics")).text
    assert 'nestling_requests_total{method="OPTIONS",route="none",status="204"} 1.0' in text


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


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
async def test_operators_routes_are_for_no_page(
    client: httpx.AsyncClient, path: str, method: str
) -> None:
    headers = {"origin": "https://app.example", "access-control-request-method": "GET"}
    response = await client.request(method, path, headers=headers)
    assert response.status_code == (200 if method in ("GET", "HEAD") else 405)
    assert [name for name in response.headers if name.startswith("access-control")] == []


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ("nest.example", "nest.example.", 200),
        ("2001:db8::1", "[2001:DB8:0::1]:8000", 200),
        ("[2001:db8::1]", "[2001:db8::1]", 200),
        ("nest.example", "nest.example.evil", 421),
        ("nest.example", "nest.example..", 421),
    ],
)
async def test_a_host_has_one_spelling(
    chat: FakeChat, accounts: Accounts, settings: Settings, allowed: str, host: str, status: int
) -> None:
    ours = settings.model_copy(update={"allowed_hosts": (allowed,)})
    async with client_of(create_app(chat, accounts, ours, healthy)) as client:
        assert (await client.get("/livez", headers={"host": host})).status_code == status


async def test_cors_with_listed_origins(
    chat: FakeChat, accounts: Accounts, settings: Settings
) -> None:
    ours = settings.model_copy(update={"cors_origins": ("https://a.example",)})
    async with client_of(create_app(chat, accounts, ours, healthy)) as client:
        yes = await client.get("/v1/models", headers={"origin": "https://a.example"})
        no = await client.options(PATH, headers={"origin": "https://b.example"})
    assert yes.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in no.headers
    assert (yes.headers["vary"], no.headers["vary"].split(", ")[-1]) == ("origin", "origin")
