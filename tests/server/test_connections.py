"""Raw sockets against the real server: who goes away, who is slow, who is rude, and the signal."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from nestling.accounts.accounts import Accounts
from nestling.api.app import create_app
from nestling.errors import SettingsError
from nestling.server.application import Application
from nestling.server.serving import run, serve
from nestling.settings import Settings
from tests.api.conftest import KEY, FakeChat, chat_body, healthy, running

WITHIN_S = 5


def request_bytes(body: dict[str, Any], *extra: str) -> bytes:
    content = json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *extra,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def exchange(url: str, data: bytes) -> bytes:
    """Send bytes, return all that comes until the server closes."""
    reader, writer = await connect(url)
    writer.write(data)
    async with asyncio.timeout(WITHIN_S):
        answer = await reader.read()
    writer.close()
    return answer


async def ends(chat: FakeChat) -> str:
    async with asyncio.timeout(WITHIN_S):
        await chat.has_ended.wait()
    return chat.ended[-1]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "close"])
async def test_gone_client_ends_its_generation(
    url: str, chat: FakeChat, stream: bool, is_reset: bool
) -> None:
    chat.pieces, chat.delay_s = ("x",) * 1000, 0.02
    _, writer = await connect(url)
    writer.write(request_bytes(chat_body(stream=stream)))
    await asyncio.wait_for(chat.started.wait(), WITHIN_S)
    await asyncio.sleep(0.2)
    gone_at = time.monotonic()
    if is_reset:
        writer.transport.abort()
    else:
        writer.close()
    assert await ends(chat) == "aborted"
    assert time.monotonic() - gone_at < 2


async def test_gone_before_the_first_token(url: str, chat: FakeChat) -> None:
    chat.delay_s = 60
    _, writer = await connect(url)
    writer.write(request_bytes(chat_body(stream=True)))
    await asyncio.wait_for(chat.started.wait(), WITHIN_S)
    writer.close()
    assert await ends(chat) == "aborted"


async def test_gone_with_a_pipelined_request_behind(url: str, chat: FakeChat) -> None:
    chat.delay_s = 60
    _, writer = await connect(url)
    writer.write(request_bytes(chat_body()) * 2)
    await asyncio.wait_for(chat.started.wait(), WITHIN_S)
    await asyncio.sleep(0.1)
    writer.close()
    assert await ends(chat) == "aborted"


async def test_silence_is_filled_with_comments(
    chat: FakeChat, accounts: Accounts, settings: Settings
) -> None:
    chat.pieces, chat.delay_s = ("late",), 0.7
    quick = settings.model_copy(update={"keep_alive_interval_s": 0.25})
    async with running(create_app(chat, accounts, quick, healthy), quick) as url:
        answer = await exchange(url, request_bytes(chat_body(stream=True), "Connection: close"))
    text = answer.decode()
    assert ": keep-alive\n" in text
    assert ": keep-alive\n\n" not in text
    assert text.index('"role":"assistant"') < text.index(": keep-alive") < text.index("late")


async def test_slow_head_is_cut_off(chat: FakeChat, accounts: Accounts, settings: Settings) -> None:
    strict = settings.model_copy(update={"header_timeout_s": 0.3})
    async with running(create_app(chat, accounts, strict, healthy), strict) as url:
        answer = await exchange(url, b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
        nothing = await exchange(url, b"")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer
    assert nothing.startswith(b"HTTP/1.1 408 ")


async def test_slow_body_is_cut_off(chat: FakeChat, accounts: Accounts, settings: Settings) -> None:
    strict = settings.model_copy(update={"body_timeout_s": 0.3})
    async with running(create_app(chat, accounts, strict, healthy), strict) as url:
        answer = await exchange(url, request_bytes(chat_body())[:-5])
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


async def test_endless_chunked_body(chat: FakeChat, accounts: Accounts, settings: Settings) -> None:
    strict = settings.model_copy(update={"max_body_bytes": 10_000})
    head = request_bytes({}).split(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    async with running(create_app(chat, accounts, strict, healthy), strict) as url:
        answer = await exchange(url, head + (b"1000\r\n" + b"a" * 4096 + b"\r\n") * 3)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_announced_length_too_large_is_refused_at_once(url: str) -> None:
    data = request_bytes({}).replace(b"Content-Length: 2", b"Content-Length: 10000000000")
    assert (await exchange(url, data)).startswith(b"HTTP/1.1 413 ")


async def test_two_content_types_are_refused(url: str) -> None:
    data = request_bytes(chat_body(), "Content-Type: text/plain", "Connection: close")
    answer = await exchange(url, data)
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b'"code":"unsupported_media_type"' in answer


async def test_head_too_large(chat: FakeChat, accounts: Accounts, settings: Settings) -> None:
    strict = settings.model_copy(update={"max_header_bytes": 8192})
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"y" * 2**20
    async with running(create_app(chat, accounts, strict, healthy), strict) as url:
        answer = await exchange(url, head)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"headers_too_large"' in answer


@pytest.mark.parametrize("num_headers", [1, 300])
async def test_head_too_large_in_one_piece(
    chat: FakeChat, accounts: Accounts, settings: Settings, num_headers: int
) -> None:
    """A head that arrives whole, a kept connection before it and a body behind it."""
    strict = settings.model_copy(update={"max_header_bytes": 4096})
    first = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    lines = b"X-A: " + b"y" * (6000 // num_headers) + b"\r\n"
    head = b"POST /livez HTTP/1.1\r\nHost: localhost\r\n" + lines * num_headers
    async with running(create_app(chat, accounts, strict, healthy), strict) as url:
        answer = await exchange(url, first + head + b"Content-Length: 2\r\n\r\n{}")
        small = await exchange(url, first + first.replace(b"\r\n\r\n", CLOSE + b"z" * 3000 + END))
    assert answer.count(b"HTTP/1.1 431 ") == 1
    assert b'"code":"headers_too_large"' in answer
    assert small.count(b"HTTP/1.1 200 ") == 2


CLOSE, END = b"\r\nConnection: close\r\nX-A: ", b"\r\n\r\n"
RUDE = [
    b"\x16\x03\x01\x02\x00",
    b"NONSENSE\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\nConnection: close\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET @evil HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
]


@pytest.mark.parametrize("data", RUDE, ids=[repr(d[:50]) for d in RUDE])
async def test_rude_bytes(url: str, data: bytes) -> None:
    answer = await exchange(url, data)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"x-request-id" in head.lower()
    assert json.loads(body)["statusCode"] in {400, 404}


ADDRESSES = ("http://", "http://a:b:c/", "http://[::1", "http://localhost", "?x", "/\x7f", "@evil")
CONNECTS = ("localhost:80", "/", "/livez", "http://localhost/livez")
TARGETS = [f"GET {a}" for a in ADDRESSES] + [f"CONNECT {a}" for a in CONNECTS]


@pytest.mark.parametrize("target", TARGETS)
async def test_odd_targets_are_refused_once(
    url: str, target: str, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = f"{target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for data in (kept, kept + b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        answer = await exchange(url, data)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
    assert "Traceback" not in capfd.readouterr().err


REASONS = [
    (b"NONSENSE\r\n\r\n", "Invalid method encountered"),
    (RUDE[2], "Duplicate Content-Length"),
    (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", "Invalid header token"),
    (b"GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n", "the address of the request"),
    (b"CONNECT / HTTP/1.1\r\nHost: localhost\r\n\r\n", "CONNECT"),
]


@pytest.mark.parametrize(("data", "reason"), REASONS, ids=[reason for _, reason in REASONS])
async def test_a_refusal_says_what_is_wrong(url: str, data: bytes, reason: str) -> None:
    answer = await exchange(url, data)
    message = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert message.startswith("Expected ")
    assert reason in message


@pytest.mark.parametrize(("num_bytes", "status"), [(60_000, 401), (66_000, 431), (2**20, 431)])
async def test_long_wrong_key_is_refused_quickly(url: str, num_bytes: int, status: int) -> None:
    """A head of 64 KiB is read, and no more."""
    data = request_bytes({}, "Connection: close").replace(KEY.encode(), b"x" * num_bytes)
    started = time.monotonic()
    answer = await exchange(url, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json", "/%6detrics"])
async def test_refusals_of_operators_routes_are_for_no_page(url: str, path: str) -> None:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Origin: http://a", BROKEN_BODY]
    answer = await exchange(url, "\r\n".join(lines).encode())
    assert answer.startswith(b"HTTP/1.1 ")
    assert b"access-control" not in answer.lower()


async def test_refusal_before_the_body_keeps_the_connection(url: str) -> None:
    reader, writer = await connect(url)
    bad = request_bytes(chat_body(user="x" * 200_000)).replace(KEY.encode(), b"wrong")
    writer.write(bad + request_bytes(chat_body(), "Connection: close"))
    async with asyncio.timeout(WITHIN_S):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"HTTP/1.1 201 " in answer


async def test_answers_on_a_kept_connection_come_at_once(url: str) -> None:
    """No part of them waits for the client's delayed ACK, which takes 40 ms."""
    durations = []
    async with httpx.AsyncClient(base_url=url) as client:
        for _ in range(100):
            started = time.monotonic()
            assert (await client.get("/livez")).status_code == 200
            durations.append(time.monotonic() - started)
    assert min(durations[1:]) < 0.03


async def test_port_in_use_is_one_clear_line(app: Application, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        busy = settings.model_copy(update={"port": port})
        with pytest.raises(SettingsError) as caught:
            await serve(app, busy, lambda url: None)
    assert str(port) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


async def test_sigterm_drains(
    app: Application, chat: FakeChat, accounts: Accounts, settings: Settings
) -> None:
    """One stream can finish in time, one cannot; new work is refused meanwhile; serve returns."""
    chat.pieces, chat.delay_s = ("x",) * 4, 0.3
    brief = settings.model_copy(update={"shutdown_timeout_s": 2.5})
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(app, brief, ready.set_result))
    url = await ready
    quick = asyncio.create_task(
        exchange(url, request_bytes(chat_body(stream=True), "Connection: close"))
    )
    await asyncio.wait_for(chat.started.wait(), WITHIN_S)
    chat.pieces = ("x",) * 1000
    chat.started.clear()
    endless = asyncio.create_task(exchange(url, request_bytes(chat_body(stream=True))))
    whole = asyncio.create_task(exchange(url, request_bytes(chat_body())))
    await asyncio.wait_for(chat.started.wait(), WITHIN_S)
    await asyncio.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.1)
    get = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    for data in (get.format("/readyz").encode(), request_bytes(chat_body(), "Connection: close")):
        refused = await exchange(url, data)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after" in refused
        assert b'"code":"server_shutdown"' in refused
    assert (await exchange(url, get.format("/livez").encode())).startswith(b"HTTP/1.1 200 ")
    assert b"[DONE]" in await quick
    cut = await endless
    assert b"HTTP/1.1 201 " in cut
    assert b'"code":"server_shutdown"' in cut
    assert b"[DONE]" not in cut
    assert (await whole).startswith(b"HTTP/1.1 503 ")
    await asyncio.wait_for(serving, WITHIN_S)
    assert sorted(chat.ended) == ["aborted", "aborted", "finished"]


def test_run_uses_uvloop_and_returns_the_result() -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run(main()).split(".")[0] == "uvloop"


UPGRADES = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
    "websocket": ("Connection: keep-alive, Upgrade", "Upgrade: websocket"),
}


@pytest.mark.parametrize("extra", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize("pieces", [1, 7], ids=["at once", "in pieces"])
async def test_offered_upgrade_is_passed_over(
    url: str, extra: tuple[str, ...], pieces: int
) -> None:
    """HTTP/2 clients offer it with a body; the next request on the connection is answered too."""
    data = request_bytes(chat_body(), *extra)
    reader, writer = await connect(url)
    for at in range(pieces):
        writer.write(data[at * len(data) // pieces : (at + 1) * len(data) // pieces])
        await asyncio.sleep(0.02)
    writer.write(request_bytes(chat_body(), "Connection: close"))
    async with asyncio.timeout(WITHIN_S):
        answer = await reader.read()
    writer.close()
    assert answer.count(b"HTTP/1.1 201 ") == 2


async def test_offered_upgrade_that_closes(url: str) -> None:
    data = request_bytes(chat_body(), "Connection: close, Upgrade", "Upgrade: h2c")
    assert (await exchange(url, data)).count(b"HTTP/1.1 201 ") == 1


async def test_long_address(url: str) -> None:
    head = b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\nOrigin: http://a\r\n\r\n"
    answer = await exchange(url, head)
    assert answer.startswith(b"HTTP/1.1 414 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b'"code":"address_too_long"' in answer
    for header in (b"access-control-allow-origin: *", b"x-inference-id: ", b"no-store"):
        assert header in answer


async def test_refused_head_shows_nothing_to_other_origins(
    chat: FakeChat, accounts: Accounts, settings: Settings
) -> None:
    ours = settings.model_copy(update={"cors_origins": ("https://a.example",)})
    async with running(create_app(chat, accounts, ours, healthy), ours) as url:
        answer = await exchange(url, b"NONSENSE\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"access-control" not in answer


BROKEN_BODY = "Transfer-Encoding: chunked\r\n\r\nno number\r\n"


async def test_a_refusal_has_the_headers_of_every_answer(
    chat: FakeChat, accounts: Accounts, settings: Settings
) -> None:
    """Also one that the parser makes, when the head of the request is known."""
    ours = settings.model_copy(update={"cors_origins": ("https://a.example",)})
    answers = []
    async with running(create_app(chat, accounts, ours, healthy), ours) as url:
        for origin in ("https://a.example", "https://b.example"):
            lines = ["POST /v1/models/a%20b?c HTTP/1.1", "Host: localhost", f"Origin: {origin}"]
            head = "\r\n".join([*lines, "X-Client-Request-Id: mine", BROKEN_BODY])
            answers.append(await exchange(url, head.encode()))
    read, unread = (answer.lower() for answer in answers)
    for answer in (read, unread):
        assert answer.startswith(b"http/1.1 400 ")
        for name in (b"date", b"x-request-id", b"x-inference-id", b"openai-processing-ms"):
            assert b"\r\n" + name + b": " in answer
        assert b"openai-version: 2020-10-01\r\n" in answer
        assert b"x-content-type-options: nosniff\r\n" in answer
        assert b"x-client-request-id: mine\r\n" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["path"] == "/v1/models/a b"
    assert b"access-control-allow-origin: https://a.example\r\n" in read
    assert b"access-control-expose-headers: x-request-id" in read
    assert b"access-control" not in unread


async def test_a_refusal_says_nothing_of_the_request_before(url: str) -> None:
    first = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Client-Request-Id: mine\r\n\r\n"
    answer = await exchange(url, first + b"NONSENSE\r\n\r\n")
    assert answer.count(b"x-client-request-id: mine") == answer.count(b"HTTP/1.1 200 ")
    assert b'"path":""' in answer


async def test_refused_body_of_an_answered_request_gets_no_second_answer(url: str) -> None:
    head = request_bytes({}).split(b"Content-Length")[0].replace(KEY.encode(), b"wrong")
    reader, writer = await connect(url)
    writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
    async with asyncio.timeout(WITHIN_S):
        answer = await reader.readuntil(b"}")
        writer.write(b"no number\r\n")
        answer += await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def in_chunks(body: dict[str, Any], coding: str = "chunked", trailers: str = "") -> bytes:
    head, _, content = request_bytes(body, f"Transfer-Encoding: {coding}").partition(END)
    lines = [line for line in head.split(b"\r\n") if b"Content-Length" not in line]
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(c), c) for c in (content[:9], content[9:]))
    return b"\r\n".join(lines) + CLOSE + b"z" + END + chunks + f"0\r\n{trailers}\r\n".encode()


async def test_headers_behind_a_body_change_nothing(url: str) -> None:
    """Neither for the one who is asked nor for the bounds of what is read."""
    trailers = "Authorization: Bearer x\r\nHost: evil\r\nContent-Encoding: gzip\r\n"
    answer = await exchange(url, in_chunks(chat_body(), trailers=trailers))
    assert answer.startswith(b"HTTP/1.1 201 ")
    keyless = in_chunks(chat_body(), trailers=f"Authorization: Bearer {KEY}\r\n")
    answer = await exchange(url, keyless.replace(b"Authorization", b"X-Nothing", 1))
    assert answer.startswith(b"HTTP/1.1 401 ")
    answer = await exchange(url, in_chunks(chat_body(), trailers="X-A: b\r\n" * 2**18))
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, chunked", "identity, chunked"])
async def test_other_transfer_codings_are_refused(url: str, coding: str) -> None:
    answer = await exchange(url, in_chunks(chat_body(), coding))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_second_content_encoding_is_seen(url: str) -> None:
    lines = ["Content-Encoding: identity", "Content-Encoding: gzip", "Connection: close"]
    answer = await exchange(url, request_bytes(chat_body(), *lines))
    assert answer.startswith(b"HTTP/1.1 415 ")


def as_http_1_0(body: dict[str, Any], *extra: str) -> bytes:
    return request_bytes(body, *extra).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n")


async def test_old_clients_get_streams_without_chunks(url: str, chat: FakeChat) -> None:
    """HTTP/1.0, as nginx speaks it by default: the body is the events, the close its end."""
    chat.pieces = ("x" * 100_000,) * 20
    answer = await exchange(url, as_http_1_0(chat_body(stream=True), "Connection: keep-alive"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 ")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    events = body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    texts = [json.loads(e[6:])["choices"][0]["delta"].get("content", "") for e in events[:-2]]
    assert "".join(texts) == "".join(chat.pieces)


async def test_old_clients_get_whole_answers(url: str) -> None:
    """Nothing but the answer: HTTP/1.0 has no 100 Continue."""
    answer = await exchange(url, as_http_1_0(chat_body(), "Expect: 100-continue"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 ")
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert json.loads(body)["object"] == "chat.completion"


def deaf_connection(url: str) -> socket.socket:
    """A client that takes next to nothing into its own buffers."""
    host, port = url.removeprefix("http://").split(":")
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect((host, int(port)))
    return deaf


async def test_unread_stream_is_bounded_and_cut_off(
    chat: FakeChat, accounts: Accounts, settings: Settings
) -> None:
    """No more is taken from the engine than the buffers hold; then the connection is reset."""
    num_asked = 0

    class Counted(tuple[str, ...]):
        def __iter__(self) -> Iterator[str]:
            nonlocal num_asked
            while num_asked < 10_000:
                num_asked += 1
                yield "x" * 10_000

    chat.pieces = Counted(("x",) * 10_001)
    strict = settings.model_copy(update={"write_timeout_s": 1.0})
    async with running(create_app(chat, accounts, strict, healthy), strict) as url:
        with deaf_connection(url) as deaf:
            deaf.sendall(request_bytes(chat_body(stream=True)))
            begin = time.monotonic()
            assert await ends(chat) == "aborted"
            assert time.monotonic() - begin < 4
    assert num_asked * 10_000 < 12 * 2**20


async def test_slow_reader_that_goes_on_is_served(
    chat: FakeChat, accounts: Accounts, settings: Settings
) -> None:
    chat.pieces = ("x" * 50_000,) * 200
    strict = settings.model_copy(update={"write_timeout_s": 1.0})
    async with running(create_app(chat, accounts, strict, healthy), strict) as url:
        reader, writer = await connect(url)
        writer.write(request_bytes(chat_body(stream=True), "Connection: close"))
        num_bytes = 0
        async with asyncio.timeout(30):
            while chunk := await reader.read(2**17):
                num_bytes += len(chunk)
                await asyncio.sleep(0.02)
        writer.close()
    assert num_bytes > 200 * 50_000
    assert chat.ended == ["finished"]


async def test_unread_answer_does_not_keep_a_closed_connection(
    chat: FakeChat, accounts: Accounts, settings: Settings
) -> None:
    chat.pieces = ("x" * 8_000_000,)
    strict = settings.model_copy(update={"write_timeout_s": 0.5})
    async with running(create_app(chat, accounts, strict, healthy), strict) as url:
        with deaf_connection(url) as deaf:
            deaf.sendall(request_bytes(chat_body(), "Connection: close"))
            await asyncio.sleep(1.5)
            deaf.settimeout(WITHIN_S)
            num_bytes = 0
            while chunk := await asyncio.to_thread(deaf.recv, 2**20):
                num_bytes += len(chunk)
    assert 0 < num_bytes < len(chat.pieces[0])
