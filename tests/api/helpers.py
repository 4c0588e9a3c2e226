"""What the tests of the endpoint share."""

import re
from typing import Any

import httpx
from starlette.routing import Route

from nestling.api.auth import GuardedEndpoint
from nestling.server.application import Application

from .conftest import AUTH, chat_body

PATH = "/v1/chat/completions"


async def post(client: httpx.AsyncClient, body: Any = None, **headers: str) -> httpx.Response:
    return await client.post(PATH, json=body or chat_body(), headers={**AUTH, **headers})


def client_of(app: Application, host: str = "localhost") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")


def routes_of(app: Application) -> list[Route]:
    """Return the app's routes; each of them has a path, methods and an endpoint."""
    routes = [route for route in app.routes if isinstance(route, Route)]
    assert len(routes) == len(app.routes)
    return routes


def guard_of(route: Route) -> GuardedEndpoint:
    """Return the endpoint behind its access class: the app has no others."""
    assert isinstance(route.endpoint, GuardedEndpoint)
    return route.endpoint


def methods_of(route: Route) -> set[str]:
    """Return the methods of a route but HEAD, which comes with GET."""
    assert route.methods
    return route.methods - {"HEAD"}


def check_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert list(body) == ["error", "message", "path", "requestId", "statusCode", "timestamp"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert response.status_code == body["statusCode"] == status
    assert body["error"]["code"] == code
    assert body["error"]["message"] == body["message"]
    assert body["requestId"] == response.headers["x-request-id"]
    assert body["path"] == httpx.URL(response.request.url).path
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    assert "Traceback" not in response.text
    assert not re.search(r"\b0x[0-9a-f]{6}", response.text)  # an address; prefixes may hold "0x"
    return body
