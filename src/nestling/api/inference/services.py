"""Tells what the inference endpoints share; made once by `create_app`."""

from dataclasses import dataclass

from nestling.accounts.accounts import Accounts
from nestling.accounts.rate_limits import RateLimiter
from nestling.api.inference.latency import LatencyWindow
from nestling.api.metrics import Metrics
from nestling.chat.request import ChatModel
from nestling.server.lifecycle import Lifecycle
from nestling.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """The model, the people's side, and the limits between them."""

    chat: ChatModel
    accounts: Accounts
    settings: Settings
    lifecycle: Lifecycle
    requests: RateLimiter
    """Requests of each key, a minute."""
    tokens: RateLimiter
    """Tokens of each key, a minute: those that its answers may still take are held."""
    metrics: Metrics
    latency: LatencyWindow
