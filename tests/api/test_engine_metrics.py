"""The figures for Prometheus name every figure of the engine."""

import asyncio

import httpx
import msgspec
import pytest
from starlette.types import Message, Scope

from nestling.api.metrics import ENGINE_TIMEOUT_S, Metrics
from nestling.engine.clients.messages import Stats
from nestling.errors import EngineError

from .conftest import FakeChat, healthy


async def scrape(metrics: Metrics) -> dict[str, float]:
    async def app(scope: Scope, receive: Message, send: Message) -> None:
        await metrics.endpoint(scope, receive, send)  # type: ignore[arg-type]

    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        text = (await client.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("nestling_engine_")]
    return {name: float(value) for name, value in (line.split() for line in lines)}


async def test_every_figure_of_the_engine_is_shown() -> None:
    stats = msgspec.structs.asdict(await healthy())
    del stats["probe_id"], stats["part_seconds"]  # the latter: tests/api/test_part_times.py
    found = await scrape(Metrics(FakeChat(), healthy))
    assert found == {"nestling_engine_up": 1} | {
        f"nestling_engine_{name}": value for name, value in stats.items()
    }
    assert found["nestling_engine_num_cached_tokens"] == 12


async def test_a_scrape_works_while_the_engine_does_not() -> None:
    async def down() -> Stats:
        raise EngineError("down")

    assert (await scrape(Metrics(FakeChat(), down)))["nestling_engine_up"] == 0


async def test_an_engine_in_a_long_step_is_not_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 rows of a prompt take E4B more than 3 s, and its engine answers between steps."""
    assert 3 < ENGINE_TIMEOUT_S < 10
    stats = await healthy()

    async def busy() -> Stats:
        await asyncio.sleep(0.1)
        return stats

    for timeout_s, is_up in ((0.05, 0), (ENGINE_TIMEOUT_S, 1)):
        monkeypatch.setattr("nestling.api.metrics.ENGINE_TIMEOUT_S", timeout_s)
        assert (await scrape(Metrics(FakeChat(), busy)))["nestling_engine_up"] == is_up
