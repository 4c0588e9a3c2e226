"""Counts one reply: its key's rate, its reservation, its row in the ledger.

Tokens that were made are charged even if nobody waited for the rest; a reply that failed costs
nothing.
"""

import math
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from nestling.accounts.key_records import ApiKey, require_scope
from nestling.accounts.ledger import Meter
from nestling.accounts.ledger_records import Charge, Inference
from nestling.accounts.money import credits_of
from nestling.accounts.rate_limits import RateLimiter, RateState
from nestling.api.auth import INFERENCE_SCOPE
from nestling.api.inference.latency import Latency
from nestling.api.inference.services import Services
from nestling.chat.request import PreparedGeneration
from nestling.errors import RateLimitError
from nestling.server.context import RequestContext

Outcome = Literal["succeeded", "aborted", "failed"]
NOTE_INTERVAL_S = 0.5
"""How often a running reply tells the ledger how far it is."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Tells who asks, and what is known of the request."""

    key: ApiKey
    context: RequestContext
    inference: Inference


class MeteredReply:
    """One reply while it runs; made by `metered`."""

    def __init__(
        self, services: Services, inference: Inference, prepared: PreparedGeneration, meter: Meter
    ) -> None:
        self._services = services
        self._inference = inference
        self._prepared = prepared
        self._meter = meter
        self._noted_at = time.monotonic()
        self._started_at = self._noted_at
        self._ttft_ms: float | None = None
        self._is_settled = False

    def saw_delta(self) -> None:
        """Take note that the reply has gained text."""
        now = time.monotonic()
        if self._ttft_ms is None:
            self._ttft_ms = (now - self._started_at) * 1000
        if now - self._noted_at >= NOTE_INTERVAL_S:
            self._noted_at = now
            usage = self._prepared.usage
            self._meter.note(usage.prompt_tokens, usage.completion_tokens)

    def cost(self) -> int:
        """Nano-USD of what has been made so far."""
        usage = self._prepared.usage
        prices = self._services.accounts.prices
        return prices.cost(usage.prompt_tokens, usage.completion_tokens)

    def settle(self, outcome: Outcome) -> None:
        """Write the reply's row, if that has not been done."""
        if self._is_settled:
            return
        self._is_settled = True
        usage, latency = self._prepared.usage, self._latency()
        self._meter.settle(
            Charge(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
                ttft_ms=latency.ttft_ms,
                duration_ms=latency.duration_ms,
                succeeded=outcome == "succeeded"
                or (outcome == "aborted" and usage.completion_tokens > 0),
            )
        )
        path = self._inference.endpoint
        self._services.metrics.reply_ended(path, outcome, usage, latency)
        if outcome == "succeeded":
            self._services.latency.observe(path, latency)

    def _latency(self) -> Latency:
        duration_s = time.monotonic() - self._started_at
        num_tokens = self._prepared.usage.completion_tokens
        after_first_s = duration_s - (self._ttft_ms or 0) / 1000
        is_timed = self._inference.is_streamed and num_tokens > 1 and after_first_s > 0
        return Latency(
            ttft_ms=self._ttft_ms if self._inference.is_streamed else None,
            tps=(num_tokens - 1) / after_first_s if is_timed else None,
            duration_ms=duration_s * 1000,
        )


@asynccontextmanager
async def metered(
    services: Services, caller: Caller, prepared: PreparedGeneration
) -> AsyncGenerator[MeteredReply, None]:
    """Hold tokens and credit for a reply while it runs, and settle them however it ends.

    Raises `RateLimitError`, `QuotaExceededError` or `UsageUnavailableError` if it may not run, and
    what a new request would get if the key has been lost since it was admitted; from here on the
    key's watch sees what happens to it.
    """
    most = (prepared.num_prompt_tokens, prepared.max_completion_tokens)
    held = min(sum(most), services.settings.tokens_per_minute)
    take(services.tokens, "tokens", held, caller.key, caller.context)
    reply: MeteredReply | None = None
    try:
        key = services.accounts.keys.recheck(caller.key.key_id)  # the body may have taken long
        require_scope(key, INFERENCE_SCOPE)
        meter = await services.accounts.ledger.open_meter(caller.inference, key, most)
        reply = MeteredReply(services, caller.inference, prepared, meter)
        yield reply
        reply.settle("succeeded")
        if meter.is_reserved:
            await services.accounts.ledger.written()
    except Exception:
        if reply is not None:
            reply.settle("failed")
        raise
    finally:  # a cancelled reply, whose client or key has gone, pays for what it got
        used = prepared.usage
        if reply is not None:
            reply.settle("aborted")
        num_unused = held - used.prompt_tokens - used.completion_tokens
        services.tokens.give_back(caller.key.key_id, max(0, num_unused))


def take(
    limiter: RateLimiter, what: str, amount: int, key: ApiKey, context: RequestContext
) -> None:
    """Take from the key's share of a minute, and put what is left into the answer's headers.

    Raises `RateLimitError` if there is not enough left; the headers are set then too.
    """
    try:
        state = limiter.take(key.key_id, amount)
    except RateLimitError:
        context.headers |= _rate_headers(what, limiter.state(key.key_id))
        raise
    context.headers |= _rate_headers(what, state)


def _rate_headers(what: str, state: RateState) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(state.limit),
        f"x-ratelimit-remaining-{what}": str(state.remaining),
        f"x-ratelimit-reset-{what}": duration_text(state.reset_s),
    }


def duration_text(seconds: float) -> str:
    """Return a time as OpenAI's headers write it: "0s", "120ms", "7s", "6m0s", "1h0m0s"."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"


def cost_headers(nano_usd: int) -> dict[str, str]:
    """Return the headers that tell the cost of a reply that is not streamed."""
    return {
        "x-aimlapi-credits-used": str(credits_of(nano_usd)),
        "x-aimlapi-usd-spent": f"{nano_usd // 10**9}.{nano_usd % 10**9:09d}",
    }
