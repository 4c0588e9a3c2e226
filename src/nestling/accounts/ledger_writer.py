"""Carries out batches of ledger operations, each batch in one transaction. Runs in a thread.

Only this module compares a limit: with what is spent in the window, what its running requests hold,
and what is asked for, added up.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from nestling.accounts.api_keys import limit_of
from nestling.accounts.key_records import SpendLimit
from nestling.accounts.ledger_records import Ask, Check, Operation, Reserve, Result, Settle
from nestling.accounts.money import Prices
from nestling.accounts.tables import (
    api_key_table,
    key_spend_table,
    microseconds,
    reservation_table,
    usage_table,
)
from nestling.errors import AuthenticationError, NestlingError

_MICROSECONDS_PER_DAY = 86400 * 10**6
_COPIED = ("inference_id", *(c.name for c in reservation_table.c if c.name in usage_table.c))
"""Columns that a reservation and its usage row share."""


class LedgerWriter:
    """Owns the connection that writes usage."""

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    def write(self, batch: Sequence[Operation], notes: dict[str, tuple[int, int]]) -> list[Result]:
        """Carry out a batch, all of it or nothing, and return the result of each operation.

        Raises `SQLAlchemyError` if the database cannot be written.
        """
        results: list[Result] = []
        settles: list[Settle] = []
        with self._engine.begin() as connection:
            for operation in batch:
                if isinstance(operation, Settle):
                    settles.append(operation)
                    results.append(None)
                    continue
                _settle(connection, settles)
                settles = []
                results.append(self._decide(connection, operation))
            _settle(connection, settles)
            _note(connection, notes)
        return results

    def recover(self, prices: Prices) -> int:
        """Settle the requests that a dead server left, and return their number."""
        with self._engine.begin() as connection:
            left = connection.execute(select(reservation_table)).all()
            rows = []
            for row in left:
                succeeded = row.completion_tokens > 0
                cost = prices.cost(row.prompt_tokens, row.completion_tokens) * succeeded
                values = {name: getattr(row, name) for name in _COPIED}
                values |= {"nano_usd": min(cost, row.nano_usd), "succeeded": succeeded}
                rows.append(values | {"cached_tokens": 0, "ttft_ms": None, "duration_ms": 0.0})
            _insert_usage(connection, rows)
            connection.execute(delete(reservation_table))
        return len(left)

    def _decide(self, connection: Connection, operation: Reserve | Check | Ask) -> Result:
        if isinstance(operation, Reserve):
            return _reserve(connection, operation)
        if isinstance(operation, Ask):
            return _used(connection, operation.key_id, self._now())
        if operation.key_id is None:
            return None
        return _refusal(connection, operation.key_id, 0, self._now())


def _reserve(connection: Connection, operation: Reserve) -> NestlingError | None:
    inference = operation.inference
    refusal = _refusal(connection, inference.key_id, operation.nano_usd, inference.started_at)
    if refusal is None:
        values = asdict(inference) | {"nano_usd": operation.nano_usd}
        values |= {"prompt_tokens": 0, "completion_tokens": 0}
        connection.execute(insert(reservation_table).values(values))
    return refusal


def _used(connection: Connection, key_id: str, at: datetime) -> int:
    row = connection.execute(select(api_key_table).where(api_key_table.c.key_id == key_id)).first()
    limit = None if row is None else limit_of(row)
    if limit is None:
        return 0
    held = _reserved(connection, key_id, limit, at)
    return _spent(connection, key_id, limit, at) + held


def _refusal(
    connection: Connection, key_id: str, amount: int, at: datetime
) -> NestlingError | None:
    """Return why the key may not spend `amount` more in the window of `at`, None if it may."""
    keys = select(api_key_table).where(api_key_table.c.key_id == key_id)
    row = connection.execute(keys).first()
    if row is None:
        return AuthenticationError(
            "This request requires a valid API key. This one has been deleted."
        )
    limit = limit_of(row)
    if limit is None:
        return None
    spent, reserved = (
        _spent(connection, key_id, limit, at),
        _reserved(connection, key_id, limit, at),
    )
    if spent + reserved + amount > limit.threshold_nano_usd:
        return limit.refusal(spent, reserved)
    return None


def _spent(connection: Connection, key_id: str, limit: SpendLimit, at: datetime) -> int:
    spend = key_spend_table.c
    total = select(func.coalesce(func.sum(spend.nano_usd), 0))
    since = total.where(spend.key_id == key_id, spend.day >= day_of(limit.window_start(at)))
    return int(connection.execute(since).scalar_one())


def _reserved(connection: Connection, key_id: str, limit: SpendLimit, at: datetime) -> int:
    held = reservation_table.c
    total = select(func.coalesce(func.sum(held.nano_usd), 0))
    since = total.where(held.key_id == key_id, held.started_at >= limit.window_start(at))
    return int(connection.execute(since).scalar_one())


def _settle(connection: Connection, settles: Sequence[Settle]) -> None:
    if not settles:
        return
    rows = []
    for settle in settles:
        charge = {name: getattr(settle.charge, name) for name in settle.charge.__slots__}
        inference = {name: getattr(settle.inference, name) for name in settle.inference.__slots__}
        rows.append(inference | charge | {"nano_usd": settle.nano_usd})
    _insert_usage(connection, rows)
    held = [{"id": s.inference.inference_id} for s in settles if s.is_reserved]
    if held:
        is_it = reservation_table.c.inference_id == bindparam("id")
        connection.execute(delete(reservation_table).where(is_it), held)


def _insert_usage(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows and the roll-up that limits are compared with."""
    if not rows:
        return
    connection.execute(insert(usage_table), rows)
    spent: Counter[tuple[str, int]] = Counter()
    for row in rows:
        spent[row["key_id"], day_of(row["started_at"])] += row["nano_usd"]
    sums = upsert(key_spend_table)
    sums = sums.on_conflict_do_update(
        index_elements=["key_id", "day"],
        set_={"nano_usd": key_spend_table.c.nano_usd + sums.excluded.nano_usd},
    )
    connection.execute(
        sums, [{"key_id": k, "day": d, "nano_usd": amount} for (k, d), amount in spent.items()]
    )


def _note(connection: Connection, notes: dict[str, tuple[int, int]]) -> None:
    if not notes:
        return
    change = update(reservation_table).where(reservation_table.c.inference_id == bindparam("id"))
    change = change.values(prompt_tokens=bindparam("prompt"), completion_tokens=bindparam("done"))
    connection.execute(change, [{"id": i, "prompt": p, "done": c} for i, (p, c) in notes.items()])


def day_of(moment: datetime) -> int:
    """Return the day since 1970, UTC, in which a moment lies."""
    return microseconds(moment) // _MICROSECONDS_PER_DAY
