"""Reserves the cost of requests before they run, and settles it after, with a row for each.

`Ledger` lives on the event loop and only queues. `accounts/ledger_writer.py` writes all that waits
in one transaction, in a thread. That transaction compares a key's limit and makes the reservation,
so requests that run together cannot pass the limit. What a crash leaves is settled at the next
start, with the tokens noted last.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any

from nestling.accounts.database import reason
from nestling.accounts.key_records import ApiKey
from nestling.accounts.ledger_records import (
    Ask,
    Charge,
    Check,
    Inference,
    Operation,
    Reserve,
    Result,
    Settle,
)
from nestling.accounts.ledger_writer import LedgerWriter
from nestling.accounts.money import Prices
from nestling.errors import NestlingError, UsageUnavailableError
from nestling.log import get_logger

MAX_SPOOL = 10_000
"""The most rows that wait for a database that cannot be written. Then no request begins."""
GATHER_S = 0.05
"""How long rows wait for others. A server that is killed loses no more than these."""
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0
_log = get_logger("accounts")


class Meter:
    """One running request. `settle` ends it, exactly once."""

    def __init__(self, ledger: "Ledger", inference: Inference, most: int) -> None:
        self._ledger = ledger
        self.inference = inference
        self.most = most
        """Nano-USD that the request may cost."""
        self.is_reserved = False
        """That much of the key's limit is held, or was asked for; never if the key has no limit."""
        self.is_settled = False

    def note(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Remember durably, soon, how far the request is."""
        if self.is_reserved and not self.is_settled:
            self._ledger.note(self.inference.inference_id, prompt_tokens, completion_tokens)

    def settle(self, charge: Charge) -> int:
        """Queue the request's row, and return its cost in nano-USD. Does no I/O."""
        assert not self.is_settled, "a request is settled once"
        self.is_settled = True
        prices = self._ledger.prices
        cost = prices.cost(charge.prompt_tokens, charge.completion_tokens) * charge.succeeded
        assert not self.is_reserved or cost <= self.most, "more was used than was reserved"
        self._ledger.forget(self)
        self._ledger.put(Settle(self.inference, charge, cost, self.is_reserved))
        return cost


class Ledger:
    """The spending of one data directory. `Accounts.open` makes it on a running loop."""

    def __init__(self, writer: LedgerWriter, prices: Prices) -> None:
        self.prices = prices
        self._writer = writer
        self._waiting: deque[Operation] = deque()
        self._notes: dict[str, tuple[int, int]] = {}
        self._unlimited: dict[str, set[Meter]] = {}
        """Requests that hold nothing, by key: it had no limit when they began."""
        self._num_spooled = 0
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._task = asyncio.create_task(self._run())

    async def open_meter(self, inference: Inference, key: ApiKey, most: tuple[int, int]) -> Meter:
        """Begin a request that may use up to `most` (prompt, completion) tokens.

        Raises `QuotaExceededError` if the key's limit does not cover that,
        `AuthenticationError` if the key is gone, `UsageUnavailableError` if nothing can be written.
        """
        if self._num_spooled >= MAX_SPOOL or self._is_closing:
            raise UsageUnavailableError("the accounts database does not take what was used")
        meter = Meter(self, inference, self.prices.cost(*most))
        if key.limit is None:
            self._unlimited.setdefault(key.key_id, set()).add(meter)
            return meter
        try:
            await self._reserve(meter)
        except asyncio.CancelledError:
            meter.settle(Charge())
            raise
        return meter

    async def hold(self, key_id: str) -> None:
        """Reserve for the requests of a key that has been given a limit while they run.

        Raises `QuotaExceededError` if the limit does not cover what is spent and reserved and what
        they may still cost.
        """
        while meters := self._unlimited.get(key_id):
            meter = next(iter(meters))
            self.forget(meter)
            try:
                await self._reserve(meter)
            except UsageUnavailableError:
                if not meter.is_settled:
                    meter.is_reserved = False
                    self._unlimited.setdefault(key_id, set()).add(meter)
                raise
        await self.check_limit(key_id)

    def forget(self, meter: Meter) -> None:
        """Remove a request from those without a reservation."""
        meters = self._unlimited.get(meter.inference.key_id)
        if meters is not None:
            meters.discard(meter)
            if not meters:
                del self._unlimited[meter.inference.key_id]

    async def _reserve(self, meter: Meter) -> None:
        """Reserve the most that a request may cost, until its settlement."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        meter.is_reserved = True
        self.put(Reserve(meter.inference, meter.most, done))
        await done

    async def check_limit(self, key_id: str) -> None:
        """Raise `QuotaExceededError` if the key's limit is below what is spent and reserved."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.put(Check(key_id, done))
        await done

    async def used(self, key_id: str) -> int:
        """Return what is spent and reserved in the present window of the key's limit, nano-USD."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.put(Ask(key_id, done))
        return await done

    async def flush(self) -> None:
        """Wait until everything settled so far is written."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.put(Check(None, done))
        await done

    async def written(self) -> None:
        """Wait until everything settled so far is written, or has to wait for the database."""
        with suppress(UsageUnavailableError):
            await self.flush()

    async def close(self) -> None:
        """Write what waits, and stop. The log says how much could not be written and is lost."""
        self._is_closing = True
        self._wake.set()
        await self._task
        await asyncio.to_thread(self._writer.close)

    def put(self, operation: Operation) -> None:
        """Queue one operation. Operations are carried out in order."""
        self._waiting.append(operation)
        if isinstance(operation, Settle):
            self._num_spooled += 1
            self._notes.pop(operation.inference.inference_id, None)
            self._wake_soon()
        else:
            self._wake.set()

    def note(self, inference_id: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Queue the progress of a reserved request. Newer notes replace older ones."""
        self._notes[inference_id] = (prompt_tokens, completion_tokens)
        self._wake_soon()

    def _wake_soon(self) -> None:
        """Let what nobody waits for gather for a moment, so that it shares a transaction."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._wake.set)

    async def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            batch, notes = list(self._waiting), self._notes
            self._waiting.clear()
            self._notes = {}
            if batch or notes:
                if await self._write(batch, notes):
                    retry_s = _FIRST_RETRY_S
                elif self._is_closing:
                    _log.error("usage lost", num_requests=self._num_spooled)
                    return
                else:
                    await asyncio.sleep(retry_s)
                    retry_s = min(retry_s * 2, _LAST_RETRY_S)
            elif self._is_closing:
                return
            if self._is_closing or any(not isinstance(o, Settle) for o in self._waiting):
                self._wake.set()
            elif self._waiting:
                self._wake_soon()

    async def _write(self, batch: list[Operation], notes: dict[str, tuple[int, int]]) -> bool:
        """Write one batch. If that fails, keep its settlements and refuse the rest."""
        try:
            results = await asyncio.to_thread(self._writer.write, batch, notes)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            problem = reason(error)
            _log.error("usage not written, will be tried again", problem=problem)
            unavailable = UsageUnavailableError(f"accounts database: cannot write: {problem}")
            for operation in batch:
                if not isinstance(operation, Settle):
                    _resolve(operation.done, unavailable)
            self._waiting.extendleft(o for o in reversed(batch) if isinstance(o, Settle))
            self._notes = notes | self._notes
            return False
        for operation, result in zip(batch, results, strict=True):
            if isinstance(operation, Settle):
                self._num_spooled -= 1
            else:
                _resolve(operation.done, result)
        return True


def _resolve(done: asyncio.Future[Any], result: Result) -> None:
    if done.done():
        return
    if isinstance(result, NestlingError):
        done.set_exception(result)
    else:
        done.set_result(result)
