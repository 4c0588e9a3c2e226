"""GET /models/metrics: percentiles of how fast the model has answered lately."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET, UnsetType
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling.api.answers import Answer, Time
from nestling.api.auth import Access, Gate, route
from nestling.api.operations import Endpoint, Operation, query
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


class Percentiles(Answer):
    """Percentiles of one figure: values that so many percent of the replies do not exceed."""

    p50: float
    p75: float
    p90: float
    p99: float


class ReplyMetrics(Answer):
    """The figures that there are of one endpoint's replies."""

    ttft_ms: Percentiles | UnsetType = UNSET
    tps: Percentiles | UnsetType = UNSET
    duration_ms: Percentiles | UnsetType = UNSET


class EndpointMetrics(Answer):
    """Tells how fast a model has answered at one endpoint."""

    alias: str
    endpoint: str
    metrics: ReplyMetrics


class ModelMetrics(Answer):
    """Tells how fast the model has answered lately."""

    window_seconds: int
    generated_at: Time
    models: list[EndpointMetrics]


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

    def route(self, gate: Gate) -> Route:
        """Return the route that shows them."""
        parameters = (query("aliases", "only these models", many=True),)
        operation = Operation(
            "Percentiles of the last minutes", ModelMetrics, parameters=lambda: parameters
        )
        endpoint = Endpoint(self.endpoint, operation)
        return route("/models/metrics", {"GET": endpoint}, Access.PUBLIC, gate)

    async def endpoint(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the percentiles of every name that was asked for."""
        query = Query(scope)
        query.allow(("aliases",))
        wanted = query.many("aliases", MAX_ALIASES) or self._names[:1]
        measured = {endpoint: self._metrics(endpoint) for endpoint in self._samples}
        models = [
            EndpointMetrics(name, endpoint, ReplyMetrics(**metrics))
            for name in self._names
            if name in wanted
            for endpoint, metrics in measured.items()
            if metrics
        ]
        body = ModelMetrics(WINDOW_S, time_text(datetime.now(UTC)), models)
        await send_body(send, 200, msgspec.json.encode(body))

    def _metrics(self, endpoint: str) -> dict[str, Percentiles]:
        samples, oldest = self._samples[endpoint], self._clock() - WINDOW_S
        while samples and samples[0][0] < oldest:
            samples.popleft()
        found = {}
        for field in fields(Latency):
            values = sorted(
                value for _, item in samples if (value := getattr(item, field.name)) is not None
            )
            if values:
                found[field.name] = Percentiles(*(_percentile(values, p) for p in PERCENTILES))
        return found


def _percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest of the sorted values that so many percent do not exceed."""
    return round(values[max(0, math.ceil(len(values) * percent / 100) - 1)], 3)
