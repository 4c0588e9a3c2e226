"""What the tests of the endpoint share."""

import re
from typing import Any

import httpx

from nestling.server.application import Application

from .conftest import AUTH, chat_body

PATH = "/v1/chat/completions"


async def post(client: httpx.AsyncClient, body: Any = None, **headers: str) -> httpx.Response:
    return await client.post(PATH, json=body or chat_body(), headers={**AUTH, **headers})


def client_of(app: Application, host: str = "localhost") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")


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
    assert not re.search(r"\b0x[0-9a-f]{6}", response.text)  # an address; prefixes may hold "0x"
    return body
