"""What requests use and cost: held before, settled after, one row each.

`Ledger` lives on the event loop and only queues; `accounts/ledger_writer.py` writes whatever waits
in one transaction, in a thread. A key's limit is compared inside the transaction that makes the
reservation, so no interleaving of requests can pass it; what a crash leaves is settled at the next
start with the tokens noted last.
"""

import asyncio
from collections import deque
from typing import Any

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
"""Rows that may wait for a database that cannot be written; then nothing new is begun."""
GATHER_S = 0.05
"""How long rows wait for others; a server that is killed loses no more than these."""
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0
_log = get_logger("accounts")


class Meter:
    """One running request; `settle` ends it, exactly once."""

    def __init__(self, ledger: "Ledger", inference: Inference, reserved: int | None) -> None:
        self._ledger = ledger
        self._inference = inference
        self._reserved = reserved
        """Nano-USD; None if the key has no limit."""
        self._is_settled = False

    def note(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Remember durably, soon, how far the request is."""
        if self._reserved is not None and not self._is_settled:
            self._ledger.note(self._inference.inference_id, prompt_tokens, completion_tokens)

    def settle(self, charge: Charge) -> int:
        """Queue the request's row; returns what it costs in nano-USD. Does no I/O."""
        assert not self._is_settled, "a request is settled once"
        self._is_settled = True
        prices = self._ledger.prices
        cost = prices.cost(charge.prompt_tokens, charge.completion_tokens) * charge.succeeded
        assert self._reserved is None or cost <= self._reserved, "more was used than was reserved"
        self._ledger.put(Settle(self._inference, charge, cost, self._reserved is not None))
        return cost


class Ledger:
    """All that is spent with one data directory. Made by `Accounts.open`, on a running loop."""

    def __init__(self, writer: LedgerWriter, prices: Prices) -> None:
        self.prices = prices
        self._writer = writer
        self._waiting: deque[Operation] = deque()
        self._notes: dict[str, tuple[int, int]] = {}
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
        if key.limit is None:
            return Meter(self, inference, None)
        amount = self.prices.cost(*most)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.put(Reserve(inference, amount, done))
        try:
            await done
        except asyncio.CancelledError:
            if not done.cancelled() and done.done() and done.exception() is None:
                Meter(self, inference, amount).settle(Charge())
            raise
        return Meter(self, inference, amount)

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

    async def close(self) -> None:
        """Write what waits and stop; what cannot be written is lost, and the log says how much."""
        self._is_closing = True
        self._wake.set()
        await self._task
        await asyncio.to_thread(self._writer.close)

    def put(self, operation: Operation) -> None:
        """Queue one operation; they are carried out in order."""
        self._waiting.append(operation)
        if isinstance(operation, Settle):
            self._num_spooled += 1
            self._notes.pop(operation.inference.inference_id, None)
            self._wake_soon()
        else:
            self._wake.set()

    def note(self, inference_id: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Queue the progress of a reserved request; newer notes replace older ones."""
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
        """Write one batch; if that fails, keep its settlements and refuse the rest of it."""
        try:
            results = await asyncio.to_thread(self._writer.write, batch, notes)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            _log.error("usage not written, will be tried again", problem=str(error)[:300])
            unavailable = UsageUnavailableError(f"accounts database: cannot write: {error}")
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
                self._hand_over(operation, result)
        return True

    def _hand_over(self, operation: Reserve | Check | Ask, result: Result) -> None:
        """Tell the waiting request; if it has gone, take its reservation back."""
        is_gone = operation.done.cancelled()
        _resolve(operation.done, result)
        if is_gone and result is None and isinstance(operation, Reserve):
            Meter(self, operation.inference, operation.nano_usd).settle(Charge())


def _resolve(done: asyncio.Future[Any], result: Result) -> None:
    if done.done():
        return
    if isinstance(result, NestlingError):
        done.set_exception(result)
    else:
        done.set_result(result)
