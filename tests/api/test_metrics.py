"""GET /metrics over a socket: what Prometheus reads, for a well and for a sick engine."""

import re
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from nestling.accounts.accounts import Accounts
from nestling.api.app import create_app
from nestling.api.metrics import _ENGINE
from nestling.engine.clients.messages import Stats
from nestling.engine.step_profiler import PARTS
from nestling.errors import EngineError
from nestling.settings import Settings
from tests.server.test_connections import exchange, request_bytes

from .conftest import AUTH, FakeChat, chat_body, healthy, running

PATH = "/v1/chat/completions"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(client: httpx.AsyncClient) -> Samples:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


async def test_counts(url: str, chat: FakeChat) -> None:
    async with httpx.AsyncClient(base_url=url, headers=AUTH) as client:
        await client.post(PATH, json=chat_body())
        await client.post(PATH, json=chat_body(stream=True))
        await client.post(PATH, json=chat_body(temperature=3))
        chat.error = EngineError("it broke")
        await client.post(PATH, json=chat_body())
        await client.get("/nothing/" + "x" * 100)
        await client.request("BREW", "/livez")
        samples = await scrape(client)
    assert value(samples, "nestling_requests_total", route=PATH, method="POST", status="201") == 2
    assert value(samples, "nestling_requests_total", route=PATH, method="POST", status="400") == 1
    assert value(samples, "nestling_requests_total", route=PATH, method="POST", status="500") == 1
    assert value(samples, "nestling_requests_total", route="none", method="GET", status="404") == 1
    assert value(samples, "nestling_replies_total", route=PATH, outcome="succeeded") == 2
    assert value(samples, "nestling_replies_total", route=PATH, outcome="failed") == 1
    assert value(samples, "nestling_tokens_total", kind="completion") == 6
    assert value(samples, "nestling_time_to_first_token_seconds_count") == 1
    assert value(samples, "nestling_requests_in_progress") == 1
    assert value(samples, "nestling_engine_up") == 1
    assert value(samples, "nestling_engine_num_preemptions") == 10
    labels = {label for _, pairs in samples for _, label in pairs}
    assert not any("xxx" in label or label == "BREW" for label in labels)


async def test_refusals_of_the_parser_count(
    chat: FakeChat, accounts: Accounts, settings: Settings
) -> None:
    """Each once: what never became a request, and a request whose body cannot be read."""
    strict = settings.model_copy(update={"header_timeout_s": 1.0, "max_header_bytes": 4096})
    host = b" HTTP/1.1\r\nHost: localhost\r\n"
    head = request_bytes({}).split(b"Content-Length")[0]
    rude = (
        b"NONSENSE\r\n\r\n",
        b"GET /livez" + host,
        b"GET /" + b"a" * 40_000 + host + b"\r\n",
        b"PUT /livez" + host + b"X: " + b"a" * 5000 + b"\r\n\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n",
    )
    async with running(create_app(chat, accounts, strict, healthy), strict) as url:
        for data in rude:
            await exchange(url, data)
        async with httpx.AsyncClient(base_url=url) as client:
            samples = await scrape(client)
    counted = {
        tuple(dict(labels)[name] for name in ("route", "method", "status")): number
        for (sample, labels), number in samples.items()
        if sample == "nestling_requests_total"
    }
    assert counted == {
        ("none", "other", "400"): 1,
        ("none", "GET", "408"): 1,
        ("none", "GET", "414"): 1,
        ("none", "PUT", "431"): 1,
        (PATH, "POST", "400"): 1,
    }
    assert value(samples, "nestling_requests_in_progress") == 1


async def test_sick_engine(chat: FakeChat, accounts: Accounts, settings: Settings) -> None:
    async def sick() -> Stats:
        raise EngineError("it is gone")

    async with (
        running(create_app(chat, accounts, settings, sick), settings) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        assert value(await scrape(client), "nestling_engine_up") == 0


async def test_elsewhere_it_needs_a_management_key(
    chat: FakeChat, accounts: Accounts, settings: Settings
) -> None:
    wide = settings.model_copy(update={"host": "192.0.2.1"})
    transport = httpx.ASGITransport(create_app(chat, accounts, wide, healthy))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers=AUTH)).status_code == 403
        assert (await client.get("/openapi.json", headers=AUTH)).status_code == 403


def test_the_engines_figures_are_documented() -> None:
    """docs/operations.md has a row for each, in its own words, and names the parts of a step."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `nestling_engine_(\w+)` \| (.+) \|$", page, re.MULTILINE)
    own = {"up": "1 if it answers", "part_seconds": rows[-1][1]}
    assert dict(rows) == _ENGINE | own
    for part in PARTS:
        assert f"`{part}`" in page
