"""Measures what the whole web process costs, around a model that answers at once.

Run: `python benchmarks/server_overhead.py [--keys N] [--json]`. A child process serves, with real
keys and a real ledger in a temporary folder. This process is the load. It prints latencies at a
fixed rate over 64 connections. A latency counts from when the request was due, so that queueing
shows. It also prints requests per second, per second of the server's CPU time too, with all
connections busy; frames per second of 500 streams; and the CPU time of a key check.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import secrets
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from nestling.accounts.accounts import Accounts
from nestling.accounts.database import DATABASE_FILE_NAME
from nestling.accounts.key_records import NewKey
from nestling.accounts.money import Prices
from nestling.api.app import create_app
from nestling.chat.request import ChatDelta, ChatRequest, ChatUsage, CompletionRequest
from nestling.engine.clients.messages import Stats
from nestling.log import configure_logging
from nestling.server.serving import serve, spare_startup_objects
from nestling.settings import Settings

NUM_CONNECTIONS = 64
RATE_PER_S = 400
DURATION_S = 5.0
NUM_STREAMS = 500
FRAMES_PER_STREAM = 400
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class InstantChat:
    """Answers every request at once; streams give up the loop between deltas, as an engine does."""

    model_id = "instant"
    aliases = ("google/gemma-3n-e4b-it",)
    max_model_len = 32768
    num_text_tokens = 1000
    system_fingerprint = "fp_000000000000"

    async def prepare(self, request: ChatRequest | CompletionRequest) -> "InstantReply":
        """Accept anything."""
        return InstantReply(request)


class InstantReply:
    """A reply with as many deltas as the request allows tokens."""

    num_choices = 1
    num_prompt_tokens = 10

    def __init__(self, request: ChatRequest | CompletionRequest) -> None:
        self.max_completion_tokens = request.sampling.max_tokens
        self.usage = ChatUsage(10, self.max_completion_tokens, 0)

    async def stream(self) -> AsyncGenerator[ChatDelta, None]:
        """Yield the deltas."""
        for _ in range(self.max_completion_tokens - 1):
            await asyncio.sleep(0)
            yield ChatDelta(0, " word")
        yield ChatDelta(0, " word", "length")


def add_keys(path: Path, like: str, count: int) -> None:
    """Add that many copies of the key with that prefix, in one transaction."""
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        found = database.execute("SELECT * FROM api_key WHERE prefix = ?", (like,))
        names = [column[0] for column in found.description]
        row = dict(zip(names, found.fetchone(), strict=True))
        rows = (
            {
                **row,
                "key_id": uuid.uuid4().hex,
                "prefix": f"{number:08d}",
                "key_hash": secrets.token_hex(32),
            }
            for number in range(count)
        )
        slots = ", ".join(f":{name}" for name in names)
        database.executemany(f"INSERT INTO api_key VALUES ({slots})", rows)  # noqa: S608


async def healthy() -> Stats:
    """Return the figures of an engine that has done nothing."""
    counts = {field.encode_name: 0 for field in msgspec.structs.fields(Stats) if field.required}
    return msgspec.convert({"type": "stats", **counts}, Stats)


async def serve_child(folder: Path, num_keys: int, pipe: Connection) -> None:
    """Serve until killed, and send the URL and one key first."""
    configure_logging("error", "json")
    settings = Settings(
        data_dir=folder, port=0, requests_per_minute=10**9, tokens_per_minute=10**12
    )
    accounts = await Accounts.open(folder, Prices.per_million(0.02, 0.04))
    key, secret = await accounts.keys.create(NewKey(name="load"))
    add_keys(folder / DATABASE_FILE_NAME, key.prefix, num_keys - 1)
    app = create_app(InstantChat(), accounts, settings, health=healthy)
    check_us = await key_check_us(accounts, secret)
    spare_startup_objects()
    await serve(app, settings, lambda url: pipe.send((url, secret, check_us)))


async def key_check_us(accounts: Accounts, secret: str) -> float:
    """Return the CPU microseconds of one key check, the least of ten rounds."""
    rounds = []
    for _ in range(10):
        begin = time.process_time()
        for _ in range(1000):
            await accounts.keys.authenticate(secret)
        rounds.append((time.process_time() - begin) * 1000)
    return min(rounds)


def run_child(folder: Path, num_keys: int, pipe: Connection) -> None:
    """Run the child process."""
    import uvloop

    uvloop.run(serve_child(folder, num_keys, pipe))


def request_bytes(secret: str, **fields: object) -> bytes:
    """Return one whole HTTP request."""
    body = {"model": "instant", "messages": [{"role": "user", "content": "Hello!"}], **fields}
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\n"
        f"Authorization: Bearer {secret}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class Load:
    """Connections that send one prepared request again and again."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self.request = request

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def counter(self) -> "StreamCounter":
        loop = asyncio.get_running_loop()
        _, counter = await loop.create_connection(
            lambda: StreamCounter(self.request), "127.0.0.1", self._port
        )
        return counter

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send one request and read its answer, which must be a 201 with a length."""
        writer.write(self.request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 201"):
            raise RuntimeError(f"expected a 201, but got {head!r}")
        at = head.index(b"content-length: ") + 16
        await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))


async def latencies_ms(load: Load) -> list[float]:
    """Return the latency of each request, from when it was due."""
    found: list[float] = []
    begin = time.perf_counter() + 0.5

    async def connection(first: int) -> None:
        reader, writer = await load.open()
        for number in range(first, int(RATE_PER_S * DURATION_S), NUM_CONNECTIONS):
            due = begin + number / RATE_PER_S
            wait_s = due - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
                due = time.perf_counter()  # a timer is up to a millisecond late
            await load.exchange(reader, writer)
            found.append((time.perf_counter() - due) * 1000)
        writer.close()

    await asyncio.gather(*(connection(i) for i in range(NUM_CONNECTIONS)))
    return found


async def closed_loop(load: Load) -> int:
    """Return the number of requests answered in `DURATION_S` with all connections busy."""
    end = time.perf_counter() + DURATION_S
    count = 0

    async def connection() -> None:
        nonlocal count
        reader, writer = await load.open()
        while time.perf_counter() < end:
            await load.exchange(reader, writer)
            count += 1
        writer.close()

    await asyncio.gather(*(connection() for _ in range(NUM_CONNECTIONS)))
    return count


class StreamCounter(asyncio.Protocol):
    """Sends a request and counts the frames of its answer; cheaper than a stream reader."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._tail = b""
        self.num_frames = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the connection, to send on it when all are open."""
        self._transport = transport

    def start(self) -> None:
        """Send the request."""
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count frames by their first 7 bytes, also of a frame that is cut in two."""
        self.num_frames += (self._tail[-6:] + data).count(b"data: {")
        self._tail = (self._tail + data)[-32:]
        if self._tail.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail if there was more to come."""
        if not self.done.done():
            self.done.set_exception(exc or RuntimeError("a stream broke off"))


async def streams(load: Load) -> tuple[int, float]:
    """Return the frames that arrived on `NUM_STREAMS` streams at once, and the seconds."""
    counters = [await load.counter() for _ in range(NUM_STREAMS)]
    begin = time.perf_counter()
    for counter in counters:
        counter.start()
    await asyncio.gather(*(counter.done for counter in counters))
    return sum(c.num_frames for c in counters), time.perf_counter() - begin


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S


async def measure(port: int, secret: str, pid: int) -> dict[str, float]:
    """Return all figures."""
    whole = Load(port, request_bytes(secret, max_tokens=1))
    await closed_loop(whole)  # warm up
    at_rate = sorted(await latencies_ms(whole))
    begin = cpu_s(pid)
    count = await closed_loop(whole)
    used = cpu_s(pid) - begin
    streamed = Load(port, request_bytes(secret, max_tokens=FRAMES_PER_STREAM, stream=True))
    stream_begin = cpu_s(pid)
    frames, seconds = await streams(streamed)
    stream_used = cpu_s(pid) - stream_begin
    return {
        "p50_ms": statistics.median(at_rate),
        "p99_ms": at_rate[int(len(at_rate) * 0.99)],
        "requests_per_s": count / DURATION_S,
        "requests_per_cpu_s": count / used,
        "frames_per_s": frames / seconds,
        "frames_per_cpu_s": frames / stream_used,
    }


def main() -> None:
    """Start the server, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=1, help="API keys in the database")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        child = context.Process(target=run_child, args=(Path(folder), arguments.keys, there))
        child.start()
        url, secret, check_us = here.recv()
        import uvloop

        port = int(url.rsplit(":", 1)[1])
        try:
            figures = uvloop.run(measure(port, secret, child.pid or 0))
        finally:
            child.terminate()
            child.join()
    figures["key_check_us"] = check_us
    if arguments.json:
        print(json.dumps(figures | {"keys": arguments.keys}))
        return
    print(f"keys in the database: {arguments.keys}")
    for name, value in figures.items():
        print(f"{name:20} {value:12,.2f}")


if __name__ == "__main__":
    main()
