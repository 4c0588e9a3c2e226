"""Bodies of megabytes, over a socket: refused in well under a second, while others are served."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from nestling.accounts.accounts import Accounts
from nestling.api.app import create_app
from nestling.api.requests.json_body import parse_json_object
from nestling.errors import InvalidRequestError
from nestling.settings import Settings

from .conftest import AUTH, MODEL, FakeChat, chat_body, healthy, running
from .helpers import check_error

BIG = {
    "messages": lambda: chat_body(messages=[{"role": "user", "content": "a"}] * 250_000),
    "named messages": lambda: chat_body(
        messages=[{"role": "user", "content": "", "name": f"n{i}"} for i in range(150_000)]
    ),
    "biases": lambda: chat_body(logit_bias={str(i): 1 for i in range(300_000)}),
    "token ids": lambda: {"model": MODEL, "prompt": [1] * 4_000_000},
    "prompts": lambda: {"model": MODEL, "prompt": ["a"] * 2_000_000},
    "model name": lambda: chat_body(model="x" * 15_000_000),
}
CODES = {"messages", "named messages", "token ids"}
LIMIT_S = 15.0
"""Each takes less than a second on an idle machine; what is quadratic takes minutes on any."""


@pytest.mark.parametrize("make", BIG.values(), ids=BIG)
async def test_refused_quickly_beside_others(
    url: str, chat: FakeChat, make: Callable[[], dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    body = await asyncio.to_thread(lambda: json.dumps(make()).encode())
    path = "/v1/completions" if b'"prompt"' in body[:100] else "/v1/chat/completions"
    headers = {**AUTH, "content-type": "application/json"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        begin = time.monotonic()
        response = await client.post(path, content=body)
        taken_s = time.monotonic() - begin
    assert response.status_code == 400
    code = response.json()["error"]["code"]
    name = request.node.callspec.id
    assert (code == "context_length_exceeded") == (name in CODES)
    if name in CODES:
        assert str(chat.max_model_len) in response.json()["message"]
    assert taken_s < LIMIT_S
    assert chat.requests == []


async def test_parsing_leaves_the_loop_free(url: str) -> None:
    """The server shares this loop: while it parses, this test must be woken on time."""
    body = json.dumps(chat_body(metadata={str(i): "a" for i in range(300_000)})).encode()
    longest_s, is_done = 0.0, asyncio.Event()

    async def tick() -> None:
        nonlocal longest_s
        while not is_done.is_set():
            begin = time.monotonic()
            await asyncio.sleep(0.005)
            longest_s = max(longest_s, time.monotonic() - begin)

    ticking = asyncio.create_task(tick())
    async with httpx.AsyncClient(base_url=url, headers=AUTH, timeout=30) as client:
        begin = time.monotonic()
        headers = {"content-type": "application/json"}
        response = await client.post("/v1/chat/completions", content=body, headers=headers)
        taken_s = time.monotonic() - begin
    is_done.set()
    await ticking
    assert response.status_code == 201
    assert longest_s < max(0.25, taken_s * 0.8)


@pytest.mark.parametrize(
    "number", ["1e999", "-1E+999", "1" * 301, f"0.{'0' * 400}e1234567", "1e400"]
)
@pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])
def test_numbers_that_overflow(number: str, padding: int) -> None:
    body = f'{{"a": "{"x" * padding}", "b": {number}}}'.encode()
    if number.startswith("0."):
        assert parse_json_object(body)["b"] == 0.0
        return
    with pytest.raises(InvalidRequestError, match="too large"):
        parse_json_object(body)


@pytest.mark.parametrize("text", ["e000", "1" * 400, "1e999", "E+123"])
def test_text_that_looks_like_such_numbers(text: str) -> None:
    assert parse_json_object(json.dumps({"a": text, "b": 1.5, "c": 7}).encode()) == {
        "a": text,
        "b": 1.5,
        "c": 7,
    }


@pytest.mark.parametrize(("num_bytes", "code"), [(4096, None), (4099, "string_above_max_length")])
async def test_bytes_of_a_file(
    chat: FakeChat, accounts: Accounts, settings: Settings, num_bytes: int, code: str | None
) -> None:
    small = settings.model_copy(update={"max_file_bytes": 4096})
    data = base64.b64encode(b"%PDF-1.4".ljust(num_bytes)).decode()
    file = {"type": "file", "file": {"file_data": data, "filename": "a.pdf"}}
    body = chat_body(messages=[{"role": "user", "content": [file]}])
    async with (
        running(create_app(chat, accounts, small, healthy), small) as url,
        httpx.AsyncClient(base_url=url, headers=AUTH) as client,
    ):
        response = await client.post("/v1/chat/completions", json=body)
    if code is None:
        assert response.status_code == 201
        return
    error = check_error(response, 400, code)["error"]
    assert error["param"] == "messages[0].content[0].file.file_data"
    assert "4096" in error["message"]
