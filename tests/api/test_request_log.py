"""One log line a request; probes that go well are logged at debug only."""

import json

import httpx
import pytest

from nestling.log import configure_logging

from .conftest import AUTH


def paths(capsys: pytest.CaptureFixture[str]) -> list[str]:
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [event["path"] for event in events if event["event"] == "request answered"]


async def test_probes_leave_the_log_readable(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info", "json")
    asked = ["/livez", "/readyz", "/metrics", "/v1/models", "/v1/key", "/livez/x"]
    for path in asked:
        await client.get(path, headers=AUTH)
    assert paths(capsys) == ["/v1/models", "/v1/key", "/livez/x"]
    configure_logging("debug", "json")
    for path in asked:
        await client.get(path, headers=AUTH)
    assert paths(capsys) == asked
