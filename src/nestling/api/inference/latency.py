"""GET /models/metrics: percentiles of how fast the model has answered lately."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from nestling.api.requests.queries import Query
from nestling.server.answers import send_body, time_text

WINDOW_S = 300
MAX_SAMPLES = 10_000
MAX_ALIASES = 100
PERCENTILES = (50, 75, 90, 99)


@dataclass(frozen=True, slots=True)
class Latency:
    """One successful reply; None where a figure does not apply."""

    ttft_ms: float | None
    tps: float | None
    """Tokens a second after the first one."""
    duration_ms: float


class LatencyWindow:
    """The replies of the last five minutes, by endpoint."""

    def __init__(self, names: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._names = names
        self._clock = clock
        self._samples: dict[str, deque[tuple[float, Latency]]] = {}

    def observe(self, endpoint: str, latency: Latency) -> None:
        """Add one reply; endpoints are routes, of which there are few."""
        samples = self._samples.setdefault(endpoint, deque(maxlen=MAX_SAMPLES))
        samples.append((self._clock(), latency))

    async def endpoint(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the percentiles of every name that was asked for."""
        query = Query(scope)
        query.allow(("aliases",))
        wanted = query.many("aliases", MAX_ALIASES) or self._names[:1]
        measured = {endpoint: self._metrics(endpoint) for endpoint in self._samples}
        body = {
            "window_seconds": WINDOW_S,
            "generated_at": time_text(datetime.now(UTC)),
            "models": [
                {"alias": name, "endpoint": endpoint, "metrics": metrics}
                for name in self._names
                if name in wanted
                for endpoint, metrics in measured.items()
                if metrics
            ],
        }
        await send_body(send, 200, msgspec.json.encode(body))

    def _metrics(self, endpoint: str) -> dict[str, Any]:
        samples, oldest = self._samples[endpoint], self._clock() - WINDOW_S
        while samples and samples[0][0] < oldest:
            samples.popleft()
        found = {}
        for field in fields(Latency):
            values = sorted(
                value for _, item in samples if (value := getattr(item, field.name)) is not None
            )
            if values:
                found[field.name] = {f"p{p}": _percentile(values, p) for p in PERCENTILES}
        return found


def _percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest of the sorted values that so many percent do not exceed."""
    return round(values[max(0, math.ceil(len(values) * percent / 100) - 1)], 3)
