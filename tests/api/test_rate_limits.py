"""Shares of a minute: real 429s with Retry-After, by key, over a socket."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from .conftest import FakeChat, chat_body
from .helpers import PATH, check_error
from .threaded import threaded_server


@contextmanager
def client_of(folder: Path, **settings: int) -> Iterator[httpx.Client]:
    """A client of a server with these limits."""
    with threaded_server(FakeChat(), folder, lambda s: s.model_copy(update=settings)) as server:
        headers = {"Authorization": f"Bearer {server.api_key}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=20) as client:
            yield client


def refused(response: httpx.Response, kind: str) -> None:
    check_error(response, 429, "rate_limit_exceeded")
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.headers[f"x-ratelimit-remaining-{kind}"] == "0"


def test_requests_a_minute(tmp_path: Path) -> None:
    with client_of(tmp_path, requests_per_minute=3) as client:
        left = [
            client.post(PATH, json=chat_body(stream=i == 1)).headers[
                "x-ratelimit-remaining-requests"
            ]
            for i in range(3)
        ]
        assert left == ["2", "1", "0"]
        refused(client.post(PATH, json=chat_body()), "requests")
        refused(client.post(PATH, json=chat_body(stream=True)), "requests")
        assert client.get("/v1/models").status_code == 200


def test_tokens_a_minute(tmp_path: Path) -> None:
    """A running reply holds what it may still take; afterwards only what it took is gone."""
    with client_of(tmp_path, tokens_per_minute=100) as client:
        for _ in range(3):
            answer = client.post(PATH, json=chat_body(max_tokens=50))
            assert answer.status_code == 201
        check_error(client.post(PATH, json=chat_body(max_tokens=90)), 429, "rate_limit_exceeded")
        assert client.post(PATH, json=chat_body(max_tokens=20)).status_code == 201


def test_logs_a_minute(tmp_path: Path) -> None:
    """200, and what the bucket gets back meanwhile."""
    with client_of(tmp_path) as client:
        started = time.monotonic()
        for count in range(400):  # noqa: B007 - read after the loop
            answer = client.get("/v2/logs", params={"period": "1h"})
            if answer.status_code != 200:
                break
        assert 200 <= count <= 201 + (time.monotonic() - started) * 200 / 60
        check_error(answer, 429, "rate_limit_exceeded")
        assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/v2/usage", params={"period": "1h"}).status_code == 200
