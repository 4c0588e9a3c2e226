"""Records of requests for the ledger, and the operations that its writer carries out."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from nestling.errors import NestlingError


@dataclass(frozen=True, slots=True)
class Inference:
    """The properties of a request that are known when it begins."""

    inference_id: str
    request_id: str
    client_request_id: str | None
    key_id: str
    key_prefix: str
    endpoint: str
    model: str
    origin: Literal["api", "playground"]
    is_streamed: bool
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Charge:
    """The end of a request and its tokens. A request that did not succeed costs nothing."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    ttft_ms: float | None = None
    duration_ms: float = 0.0
    succeeded: bool = False


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hold `nano_usd` of the key's limit for a request."""

    inference: Inference
    nano_usd: int
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Settle:
    """Write a request's row, and let go of its reservation if it has one."""

    inference: Inference
    charge: Charge
    nano_usd: int
    is_reserved: bool


@dataclass(frozen=True, slots=True)
class Check:
    """Tell whether the key is within its limit. None only waits until all before is written."""

    key_id: str | None
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Ask:
    """Tell what is spent and reserved in the present window of the key's limit, in nano-USD."""

    key_id: str
    done: asyncio.Future[int]


Operation = Reserve | Settle | Check | Ask
Result = NestlingError | int | None
"""The result of one operation: the refusal, the figure that was asked for, or None if done."""
