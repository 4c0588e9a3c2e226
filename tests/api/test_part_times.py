"""Where the engine's time goes is shown at /metrics."""

import httpx
import msgspec
from starlette.types import Receive, Scope, Send

from nestling.api.metrics import Metrics
from nestling.engine.clients.messages import Stats

from .conftest import FakeChat, healthy


async def test_each_part_is_a_label() -> None:
    """Seconds of all steps so far, as the engine tells them."""

    async def busy() -> Stats:
        parts = {"model": 2.5, "sample": 0.125}
        return msgspec.structs.replace(await healthy(), part_seconds=parts)

    metrics = Metrics(FakeChat(), busy)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await metrics.endpoint(scope, receive, send)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        lines = (await client.get("/metrics")).text.splitlines()
    assert 'nestling_engine_part_seconds{part="model"} 2.5' in lines
    assert 'nestling_engine_part_seconds{part="sample"} 0.125' in lines
