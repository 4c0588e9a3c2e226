"""GET /metrics for Prometheus. Labels come from small fixed sets: routes, methods, statuses, ends.

Nothing is counted a token; a reply is counted once, when it ends. The engine's own figures are
asked for when somebody scrapes.
"""

import asyncio
from collections.abc import Awaitable, Callable

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling import __version__
from nestling.api.auth import Access, Gate, route
from nestling.api.inference.latency import Latency
from nestling.api.operations import Endpoint, Operation
from nestling.chat.request import ChatModel, ChatUsage
from nestling.engine.clients.messages import Stats
from nestling.errors import EngineError
from nestling.server.metrics import SECONDS, HttpMetrics

Health = Callable[[], Awaitable[Stats]]
"""Returns the engine's figures if it is well; raises the `NestlingError` that fits if not."""

ENGINE_TIMEOUT_S = 8.0
"""Below the 10 s that Prometheus waits; an engine answers after its present step, which takes E4B
more than 3 s on two cores if it is 512 rows of a prompt."""
_TOKENS_PER_S = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_ENGINE = {
    "num_waiting": "Requests that wait for their first step",
    "num_running": "Requests that are computed",
    "num_free_blocks": "Blocks of the full layers' KV cache that no live request holds",
    "num_blocks": "Blocks of the full layers' KV cache",
    "num_free_sliding_blocks": "Blocks of the sliding layers' KV cache that no live request holds",
    "num_sliding_blocks": "Blocks of the sliding layers' KV cache",
    "num_steps": "Steps since the engine started",
    "num_prompt_tokens": "Prompt tokens computed since the engine started",
    "num_generated_tokens": "Tokens generated since the engine started",
    "num_preemptions": "Requests put back for lack of blocks since the engine started",
    "num_prefix_hits": "Requests of which a beginning was in the cache since the engine started",
    "num_cached_tokens": "Prompt tokens found in the cache since the engine started",
    "weight_bytes_read": "Bytes of weights that steps have read since the engine started",
}


class Metrics:
    """All figures of one app, in a registry of their own; `http` are those of its requests."""

    def __init__(self, chat: ChatModel, health: Health) -> None:
        self._health = health
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        info = Gauge("nestling_info", "Version and model", ["version", "model"], registry=registry)
        info.labels(__version__, chat.model_id).set(1)
        self.http = HttpMetrics(registry)
        self._replies = Counter(
            "nestling_replies", "Replies of the model", ["route", "outcome"], registry=registry
        )
        self._tokens = Counter(
            "nestling_tokens", "Tokens of ended replies", ["kind"], registry=registry
        )
        self._ttft = Histogram(
            "nestling_time_to_first_token_seconds",
            "From the start of a reply to its first text",
            buckets=SECONDS,
            registry=registry,
        )
        self._tps = Histogram(
            "nestling_reply_tokens_per_second",
            "Of a reply after its first token",
            buckets=_TOKENS_PER_S,
            registry=registry,
        )
        self._engine_up = Gauge("nestling_engine_up", "1 if it answers", registry=registry)
        self._engine = {
            name: Gauge(f"nestling_engine_{name}", help_text, registry=registry)
            for name, help_text in _ENGINE.items()
        }
        self._parts = Gauge(
            "nestling_engine_part_seconds",
            "Time of the engine's steps since it started, by part",
            ["part"],
            registry=registry,
        )

    def reply_ended(self, route: str, outcome: str, usage: ChatUsage, latency: Latency) -> None:
        """Count a reply: "succeeded", "aborted" or "failed"."""
        self._replies.labels(route, outcome).inc()
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("cached").inc(usage.cached_tokens)
        self._tokens.labels("completion").inc(usage.completion_tokens)
        if latency.ttft_ms is not None:
            self._ttft.observe(latency.ttft_ms / 1000)
        if latency.tps is not None:
            self._tps.observe(latency.tps)

    def route(self, gate: Gate) -> Route:
        """Return the route that Prometheus asks."""
        operation = Operation("Figures for Prometheus", str, answer_types=("text/plain",))
        return route("/metrics", {"GET": Endpoint(self.endpoint, operation)}, Access.OPERATOR, gate)

    async def endpoint(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer a scrape; it works while the engine does not."""
        try:
            async with asyncio.timeout(ENGINE_TIMEOUT_S):
                stats = await self._health()
        except (EngineError, TimeoutError):
            self._engine_up.set(0)
        else:
            self._engine_up.set(1)
            for name, gauge in self._engine.items():
                gauge.set(getattr(stats, name))
            for part, seconds in stats.part_seconds.items():
                self._parts.labels(part).set(seconds)
        body = generate_latest(self._registry)
        headers = [
            (b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode("ascii")),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
