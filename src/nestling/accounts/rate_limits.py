"""Limits the units that each key takes in a minute: token buckets in memory, on one loop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from nestling.errors import RateLimitError

MAX_BUCKETS = 20_000
"""With more buckets than this, full ones are dropped. A missing bucket is a full one."""


@dataclass(frozen=True, slots=True)
class RateState:
    """The state of a bucket that the headers of an answer tell."""

    limit: int
    remaining: int
    reset_s: float
    """Seconds until the share is whole again."""


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class RateLimiter:
    """Gives each key `per_minute` units a minute. They refill steadily, and are kept a minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = per_minute
        self._per_s = per_minute / 60
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, key_id: str, amount: int = 1) -> RateState:
        """Take `amount` units. Raises `RateLimitError`, and takes none, if there are too few."""
        bucket = self._filled(key_id)
        if amount > bucket.level:
            wait_s = (amount - bucket.level) / self._per_s
            raise RateLimitError(
                f"Too Many Requests: this key may use {self._limit} a minute, {amount} were asked "
                f"for and {math.floor(bucket.level)} are left. Try again in {wait_s:.1f} s.",
                retry_after_s=max(1, math.ceil(wait_s)),
            )
        bucket.level -= amount
        return self._state(bucket)

    def give_back(self, key_id: str, amount: int) -> None:
        """Return units that were taken and not used."""
        bucket = self._filled(key_id)
        bucket.level = min(self._limit, bucket.level + amount)

    def state(self, key_id: str) -> RateState:
        """Return what is left without taking anything."""
        return self._state(self._filled(key_id))

    def _state(self, bucket: _Bucket) -> RateState:
        missing = self._limit - bucket.level
        return RateState(self._limit, math.floor(bucket.level), missing / self._per_s)

    def _filled(self, key_id: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(key_id)
        if bucket is None:
            self._forget_full(now)
            bucket = self._buckets[key_id] = _Bucket(self._limit, now)
        bucket.level = self._level(bucket, now)
        bucket.at = now
        return bucket

    def _level(self, bucket: _Bucket, now: float) -> float:
        return min(self._limit, bucket.level + (now - bucket.at) * self._per_s)

    def _forget_full(self, now: float) -> None:
        if len(self._buckets) < MAX_BUCKETS:
            return
        kept = {k: b for k, b in self._buckets.items() if self._level(b, now) < self._limit}
        self._buckets = kept
