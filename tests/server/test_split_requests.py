"""Requests of every form, one behind the other on one connection and cut anywhere: all answered."""

import asyncio
import random

import pytest

from tests.api.conftest import chat_body
from tests.server.test_connections import UPGRADES, WITHIN_S, connect, in_chunks, request_bytes

GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
CLOSE = b"Connection: close\r\nX-A: z\r\n"
FORMS: list[tuple[bytes, bytes]] = [
    (GET + b"\r\n", b"200"),
    (GET.replace(b"GET", b"HEAD") + b"\r\n", b"200"),
    (GET.replace(b"/livez", b"/nothing") + b"Content-Length: 5\r\n\r\nhello", b"404"),
    (GET.replace(b"GET", b"OPTIONS") + b"\r\n", b"204"),
    (request_bytes(chat_body()), b"201"),
    (request_bytes(chat_body(stream=True)), b"201"),
    (request_bytes(chat_body(), "Expect: 100-continue"), b"201"),
    (request_bytes(chat_body(), *UPGRADES["h2c"]), b"201"),
    (request_bytes(chat_body(temperature=3)), b"400"),
    (in_chunks(chat_body(), trailers="Host: evil\r\n").replace(CLOSE[:17] + b"\r\n", b""), b"201"),
]


@pytest.mark.parametrize("seed", range(20))
async def test_requests_are_answered_however_they_are_cut(url: str, seed: int) -> None:
    draw = random.Random(seed)
    forms = draw.choices(FORMS, k=draw.randint(2, 8))
    data = b"".join(request for request, _ in forms) + GET + CLOSE + b"\r\n"
    cuts = sorted(draw.sample(range(1, len(data)), draw.choice([0, 1, 5, 60])))
    reader, writer = await connect(url)
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        writer.write(data[start:end])
        await asyncio.sleep(draw.choice([0, 0, 0.001]))
    async with asyncio.timeout(2 * WITHIN_S):
        answer = await reader.read()
    writer.close()
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert [s for s in statuses if s != b"100"] == [status for _, status in forms] + [b"200"]
