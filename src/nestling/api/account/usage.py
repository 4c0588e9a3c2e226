"""/v2/usage, /v2/usage/detail and /v2/logs: what a key has used, as totals and row by row."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from msgspec import UNSET, UnsetType
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling.accounts.accounts import Accounts
from nestling.accounts.money import usd
from nestling.accounts.rate_limits import RateLimiter
from nestling.accounts.usage import UsageGroup, UsageRow, Window
from nestling.api.answers import Amount, Answer, Cost, Count, Time, Tokens, cost, tokens
from nestling.api.auth import Access, Gate, route
from nestling.api.inference.chat import model_names
from nestling.api.inference.metering import take
from nestling.api.operations import Endpoint, Operation, query
from nestling.api.requests.queries import Query, bad_parameter, not_among
from nestling.chat.fields import Schema
from nestling.chat.request import ChatModel
from nestling.errors import NotFoundError, PermissionDeniedError, shown
from nestling.server.answers import send_body, time_text
from nestling.server.context import request_context

MAX_WINDOW = timedelta(days=92)
MAX_MODELS = 50
LOG_REQUESTS_PER_MINUTE = 200
GROUPINGS = ("day", "model", "day,model")
STATUSES = ("succeeded", "failed")
WINDOW_PARAMETERS = ("period", "start", "end", "key_prefix")
PERIOD_PATTERN = (
    r"^(?:[1-9][0-9]{0,2}|1[0-9]{3}|2[01][0-9]{2}|220[0-8])h$|^(?:[1-9]|[1-8][0-9]|9[0-2])d$"
)
"""What is read as a period, for the OpenAPI document."""
_PERIOD = re.compile(r"([1-9][0-9]{0,3})([hd])")
_HOURS = {"h": 1, "d": 24}


class UsageTotals(Answer):
    """Tells what a key spent in a window of time."""

    api_key_prefix: str | None
    start: Time
    end: Time
    spend: Amount
    currency: Literal["USD"]
    requests: Count


class ModelUsage(Answer):
    """Tells what a key spent on one model."""

    model: str
    spend: Amount
    requests: Count


class Requests(Answer):
    """Requests by how they ended."""

    total: Count
    charged: Count
    succeeded: Count
    failed: Count


class UsageGroupAnswer(Answer, kw_only=True):
    """Tells what a key spent on one day, on one model, or on one model on one day."""

    day: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    spend: Amount
    tokens: Tokens
    requests: Requests


class UsageDetail(UsageTotals):
    """Tells what a key spent by model, and by groups if they are asked for."""

    models: list[ModelUsage]
    groups: list[UsageGroupAnswer] | UnsetType = UNSET


class LogRow(Answer):
    """One request of a key."""

    created: Time
    status: Literal["succeeded", "failed"]
    origin: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["api", "playground"]})]
    model: str
    cost: Cost
    tokens: Tokens
    request_id: str | None
    inference_id: str
    client_request_id: str | None


class LogPage(Answer):
    """Which rows these are."""

    limit: Count
    offset: Count
    total: Count
    has_more: bool


class Logs(Answer):
    """A key's requests, newest first."""

    data: list[LogRow]
    pagination: LogPage


@dataclass(frozen=True, slots=True)
class _Report:
    """Says whose use is asked about, and of which time."""

    key_id: str
    key_prefix: str | None
    """As asked for; None if the caller means its own key."""
    window: Window


class UsageEndpoint:
    """The handlers; one instance for the whole app."""

    def __init__(
        self,
        accounts: Accounts,
        chat: ChatModel,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._accounts = accounts
        self._served_by = dict.fromkeys(model_names(chat), chat.model_id)
        self._now = now
        self._log_requests = RateLimiter(LOG_REQUESTS_PER_MINUTE)

    def routes(self, gate: Gate) -> Sequence[Route]:
        """Return the routes of what keys have used."""
        by_prefix = (404,)
        totals = Operation(
            "What a key spent", UsageTotals, parameters=lambda: _WINDOW, errors=by_prefix
        )
        detail = Operation(
            "What a key spent, by model and day",
            UsageDetail,
            parameters=_detail_parameters,
            errors=by_prefix,
        )
        logs = Operation(
            "A key's requests", Logs, parameters=_log_parameters, errors=(*by_prefix, 429)
        )
        return [
            route("/v2/usage", {"GET": Endpoint(self.totals, totals)}, Access.ANY_KEY, gate),
            route("/v2/usage/detail", {"GET": Endpoint(self.detail, detail)}, Access.ANY_KEY, gate),
            route("/v2/logs", {"GET": Endpoint(self.logs, logs)}, Access.ANY_KEY, gate),
        ]

    async def totals(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v2/usage."""
        query = Query(scope)
        query.allow(WINDOW_PARAMETERS)
        await _send(send, await self._totals(await self._report(query, scope)))

    async def detail(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v2/usage/detail."""
        query = Query(scope)
        query.allow((*WINDOW_PARAMETERS, "group_by", "tz"))
        group_by, zone = query.choice("group_by", GROUPINGS), _read_zone(query)
        report = await self._report(query, scope)
        by_model = await self._accounts.usage.by_model(report.key_id, report.window)
        models = [ModelUsage(m.model, usd(m.nano_usd), m.num_requests) for m in by_model]
        totals = await self._totals(report)
        body = UsageDetail(**msgspec.structs.asdict(totals), models=models)
        if group_by is not None:
            groups = await self._accounts.usage.groups(
                report.key_id,
                report.window,
                by_day="day" in group_by,
                by_model="model" in group_by,
                tz=zone,
            )
            body.groups = [_group(group) for group in groups]
        await _send(send, body)

    async def logs(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v2/logs."""
        key, context = scope["state"]["api_key"], request_context(scope)
        take(self._log_requests, "requests", 1, key, context)
        query = Query(scope)
        query.allow((*WINDOW_PARAMETERS, "model", "status", "limit", "offset"))
        limit = query.integer("limit", 50, 1, 100)
        offset = query.integer("offset", 0, 0, 10**9)
        statuses = _read_statuses(query)
        asked = query.many("model", MAX_MODELS)
        models = tuple(self._served_by.get(name, name) for name in asked)
        report = await self._report(query, scope)
        rows, total = await self._accounts.usage.rows(
            report.key_id,
            report.window,
            models=models,
            succeeded=None if len(statuses) != 1 else statuses == {"succeeded"},
            page=(limit, offset),
        )
        page = LogPage(limit, offset, total, offset + len(rows) < total)
        await _send(send, Logs([_log_row(row) for row in rows], page))

    async def _totals(self, report: _Report) -> UsageTotals:
        totals = await self._accounts.usage.totals(report.key_id, report.window)
        return UsageTotals(
            api_key_prefix=report.key_prefix,
            start=time_text(report.window.start),
            end=time_text(report.window.end),
            spend=usd(totals.nano_usd),
            currency="USD",
            requests=totals.num_requests,
        )

    async def _report(self, query: Query, scope: Scope) -> _Report:
        window = read_window(query, self._now())
        caller = scope["state"]["api_key"]
        prefix = query.one("key_prefix")
        if prefix is None or prefix == caller.prefix:
            return _Report(caller.key_id, prefix, window)
        if caller.kind != "management":
            message = "Another key's usage can be read with a management key only."
            raise PermissionDeniedError(message, code="management_key_required")
        try:
            key = await self._accounts.keys.by_prefix(prefix)
        except NotFoundError:
            message = f"There is no API key with the prefix '{shown(prefix)}'."
            raise NotFoundError(message, param="key_prefix") from None
        return _Report(key.key_id, prefix, window)


_WINDOW = (
    query("period", "hours or days back, instead of start and end", pattern=PERIOD_PATTERN),
    query("start", "ISO 8601", format="date-time"),
    query("end", "ISO 8601", format="date-time"),
    query("key_prefix", "whose use; the caller's own without it"),
)


def _detail_parameters() -> Sequence[Schema]:
    return (
        *_WINDOW,
        query("group_by", "add groups", enum=list(GROUPINGS)),
        query("tz", "whose days", enum=sorted(time_zones())),
    )


def _log_parameters() -> Sequence[Schema]:
    return (
        *_WINDOW,
        query("model", f"only these, at most {MAX_MODELS}", many=True),
        query("status", "only these", many=True, enum=list(STATUSES)),
        query("limit", "rows of a page", type="integer", minimum=1, maximum=100),
        query("offset", "rows to skip", type="integer", minimum=0, maximum=10**9),
    )


def read_window(query: Query, now: datetime) -> Window:
    """Return the window: `period`, or `start` and `end`."""
    period, start, end = query.one("period"), query.one("start"), query.one("end")
    if (period is None) == (start is None and end is None):
        raise bad_parameter("period", "expected either period, or start and end")
    if period is not None:
        match = _PERIOD.fullmatch(period)
        length = timedelta(hours=int(match[1]) * _HOURS[match[2]]) if match else None
        if length is None or length > MAX_WINDOW:
            wanted = f"expected hours or days such as 24h or 7d, at most {MAX_WINDOW.days} days"
            raise bad_parameter("period", f"{wanted}, but got '{shown(period)}'")
        return Window(now - length, now)
    window = Window(read_time("start", start), read_time("end", end))
    if window.end < window.start:
        raise bad_parameter("end", "expected a time that is not before start")
    if window.end - window.start > MAX_WINDOW:
        raise bad_parameter("end", f"expected a window of at most {MAX_WINDOW.days} days")
    return window


def read_time(name: str, text: str | None) -> datetime:
    """Return an ISO 8601 time; one without an offset is UTC."""
    if text is None:
        raise bad_parameter(name, "expected it beside its counterpart, but it is missing")
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        wanted = "expected an ISO 8601 time such as 2026-07-01T00:00:00Z"
        raise bad_parameter(name, f"{wanted}, but got '{shown(text)}'") from None


def _read_zone(query: Query) -> ZoneInfo:
    name = query.one("tz")
    if name is None:
        return ZoneInfo("UTC")
    if name not in time_zones():
        wanted = "expected a time zone's exact name, such as Europe/Berlin or UTC"
        raise bad_parameter("tz", f"{wanted}, but got '{shown(name)}'")
    return ZoneInfo(name)


@cache
def time_zones() -> frozenset[str]:
    """Return the names that `tz` may have."""
    return frozenset(available_timezones())


def _read_statuses(query: Query) -> set[str]:
    statuses = query.many("status")
    for status in statuses:
        if status not in STATUSES:
            raise not_among("status", status, STATUSES)
    return set(statuses)


def _group(group: UsageGroup) -> UsageGroupAnswer:
    num_charged = group.num_charged
    num_failed = group.num_requests - num_charged
    return UsageGroupAnswer(
        day=UNSET if group.day is None else group.day,
        model=UNSET if group.model is None else group.model,
        spend=usd(group.nano_usd),
        tokens=tokens(group.prompt_tokens, group.completion_tokens),
        requests=Requests(group.num_requests, num_charged, num_charged, num_failed),
    )


def _log_row(row: UsageRow) -> LogRow:
    return LogRow(
        created=time_text(row.started_at),
        status="succeeded" if row.succeeded else "failed",
        origin=row.origin,
        model=row.model,
        cost=cost(row.nano_usd),
        tokens=tokens(row.prompt_tokens, row.completion_tokens),
        request_id=row.request_id,
        inference_id=row.inference_id,
        client_request_id=row.client_request_id,
    )


async def _send(send: Send, body: Answer) -> None:
    await send_body(send, 200, msgspec.json.encode(body))
