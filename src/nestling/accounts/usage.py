"""Reports over the rows of ended requests. It only reads, and sees all that is settled."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Integer, Row, cast, func, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from nestling.accounts.database import reason
from nestling.accounts.key_records import SpendLimit
from nestling.accounts.ledger import Ledger
from nestling.accounts.ledger_writer import day_of
from nestling.accounts.tables import key_spend_table, microseconds, moment_of, usage_table
from nestling.errors import StoreError

_u = usage_table.c
_MINUTES = timedelta(minutes=15)
"""Rows are summed by quarters of an hour before days, as each zone's midnight is on one."""
_QUARTER = cast(_u.started_at, Integer) / (_MINUTES // timedelta(microseconds=1))
_CHARGED = func.coalesce(func.sum(cast(_u.succeeded, Integer)), 0).label("num_charged")
_SPEND = func.coalesce(func.sum(_u.nano_usd), 0).label("nano_usd")


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, half-open, UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over requests that were charged."""

    nano_usd: int
    num_requests: int


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """Sums over the charged requests of one model."""

    model: str
    nano_usd: int
    num_requests: int


@dataclass(frozen=True, slots=True)
class UsageGroup:
    """Sums over all requests of a day, a model, or both; None where it is not grouped by that."""

    day: str | None
    model: str | None
    nano_usd: int
    prompt_tokens: int
    completion_tokens: int
    num_requests: int
    num_charged: int


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One request that has ended."""

    usage_id: int
    started_at: datetime
    succeeded: bool
    origin: str
    model: str
    endpoint: str
    nano_usd: int
    prompt_tokens: int
    completion_tokens: int
    request_id: str
    inference_id: str
    client_request_id: str | None

    @property
    def place(self) -> tuple[int, int]:
        """Return the place of this row among all rows, which are sorted by it."""
        return microseconds(self.started_at), self.usage_id


class UsageReports:
    """The reports of one data directory."""

    def __init__(self, engine: AsyncEngine, ledger: Ledger, now: Callable[[], datetime]) -> None:
        self._reader = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._ledger = ledger
        self._now = now

    async def totals(self, key_id: str, window: Window) -> UsageTotals:
        """Return what a key spent, and on how many requests."""
        (row,) = await self._read(select(_SPEND, _CHARGED).where(*_within(key_id, window)))
        return UsageTotals(row.nano_usd, row.num_charged)

    async def by_model(self, key_id: str, window: Window) -> list[ModelUsage]:
        """Return sums by model, highest spend first."""
        sums = select(_u.model, _SPEND, _CHARGED).where(*_within(key_id, window), _u.succeeded)
        sums = sums.group_by(_u.model).order_by(_SPEND.desc(), _u.model)
        return [ModelUsage(r.model, r.nano_usd, r.num_charged) for r in await self._read(sums)]

    async def groups(
        self, key_id: str, window: Window, *, by_day: bool, by_model: bool, tz: ZoneInfo
    ) -> list[UsageGroup]:
        """Return sums by day of the time zone, by model, or by both, in that order."""
        sums = select(
            _QUARTER.label("quarter"),
            _u.model,
            _SPEND,
            func.sum(_u.prompt_tokens).label("prompt_tokens"),
            func.sum(_u.completion_tokens).label("completion_tokens"),
            func.count().label("num_requests"),
            _CHARGED,
        ).where(*_within(key_id, window))
        rows = await self._read(sums.group_by("quarter", _u.model))
        found: dict[tuple[str | None, str | None], UsageGroup] = {}
        for row in rows:
            day = _day(int(row.quarter), tz) if by_day else None
            name = (day, row.model if by_model else None)
            found[name] = _added(found.get(name), name, row)
        return [found[name] for name in sorted(found, key=lambda n: (n[0] or "", n[1] or ""))]

    async def rows(
        self,
        key_id: str,
        window: Window,
        *,
        models: Sequence[str] = (),
        succeeded: bool | None = None,
        page: tuple[int, int],
    ) -> tuple[list[UsageRow], int]:
        """Return one page (limit, offset) of requests, newest first, and how many there are."""
        wanted = [*_within(key_id, window)]
        if models:
            wanted.append(_u.model.in_(models))
        if succeeded is not None:
            wanted.append(_u.succeeded.is_(succeeded))
        limit, offset = page
        newest = select(usage_table).where(*wanted)
        newest = newest.order_by(_u.started_at.desc(), _u.usage_id.desc())
        found = await self._read(newest.limit(limit).offset(offset))
        (total,) = await self._read(select(func.count()).where(*wanted))
        return [_row(row) for row in found], int(total[0])

    async def charges(
        self,
        key_id: str,
        *,
        start: datetime | None,
        end: datetime | None,
        before: tuple[int, int] | None,
        limit: int,
    ) -> list[UsageRow]:
        """Return charged requests, newest first; `before` is the place of the last one seen."""
        wanted: list[ColumnElement[bool]] = [_u.key_id == key_id, _u.succeeded]
        if start is not None:
            wanted.append(_u.started_at >= start)
        if end is not None:
            wanted.append(_u.started_at < end)
        if before is not None:
            moment, usage_id = moment_of(before[0]), before[1]
            same = (_u.started_at == moment) & (_u.usage_id < usage_id)
            wanted.append(or_(_u.started_at < moment, same))
        newest = select(usage_table).where(*wanted)
        newest = newest.order_by(_u.started_at.desc(), _u.usage_id.desc()).limit(limit)
        return [_row(row) for row in await self._read(newest)]

    async def monthly(self, key_ids: Iterable[str]) -> dict[str, int]:
        """Return what each key spent since the first of the month, 00:00 UTC, in nano-USD."""
        wanted = list(key_ids)
        first = day_of(SpendLimit("month", 0).window_start(self._now()))
        spend = key_spend_table.c
        sums = select(spend.key_id, func.sum(spend.nano_usd).label("nano_usd"))
        rows = await self._read(sums.where(spend.day >= first).group_by(spend.key_id))
        found: Mapping[str, int] = {row.key_id: row.nano_usd for row in rows}
        return {key_id: found.get(key_id, 0) for key_id in wanted}

    async def _read(self, statement: Any) -> Sequence[Row[Any]]:
        await self._ledger.flush()
        try:
            async with self._reader.connect() as connection:
                return (await connection.execute(statement)).all()
        except SQLAlchemyError as error:
            raise StoreError(f"accounts database: cannot read: {reason(error)}") from error


def _within(key_id: str, window: Window) -> tuple[ColumnElement[bool], ...]:
    return (_u.key_id == key_id, _u.started_at >= window.start, _u.started_at < window.end)


def _day(quarter: int, tz: ZoneInfo) -> str:
    moment = datetime.fromtimestamp(0, UTC) + quarter * _MINUTES
    return moment.astimezone(tz).date().isoformat()


def _added(group: UsageGroup | None, name: tuple[str | None, str | None], row: Any) -> UsageGroup:
    day, model = name
    start = group or UsageGroup(day, model, 0, 0, 0, 0, 0)
    return UsageGroup(
        day,
        model,
        start.nano_usd + row.nano_usd,
        start.prompt_tokens + row.prompt_tokens,
        start.completion_tokens + row.completion_tokens,
        start.num_requests + row.num_requests,
        start.num_charged + row.num_charged,
    )


def _row(row: Row[Any]) -> UsageRow:
    return UsageRow(**{name: getattr(row, name) for name in UsageRow.__slots__})
