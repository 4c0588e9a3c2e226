"""/v1/billing/balance and /v2/billing: what a key may still spend, and what it was charged.

There is no account that is paid into: a key with a limit has what the limit leaves, a key without
one has `UNLIMITED_CREDITS`.
"""

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, get_args

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling.accounts.accounts import Accounts
from nestling.accounts.key_records import ApiKey
from nestling.accounts.money import NANO_USD_PER_CREDIT, credits_of, usd
from nestling.accounts.usage import UsageRow
from nestling.api.account.usage import read_time
from nestling.api.answers import Amount, Answer, Cost, Count, Time, cost
from nestling.api.auth import Access, Gate, route
from nestling.api.operations import Endpoint, Operation, query
from nestling.api.requests.queries import Query, bad_parameter
from nestling.errors import PermissionDeniedError
from nestling.server.answers import send_body, time_text

UNLIMITED_CREDITS = 2 * 10**15
"""What a key without a limit is told to have: a billion dollars."""
LOW_BALANCE_CREDITS = 10_000
Direction = Literal["TOPUP", "CHARGE"]
TransactionType = Literal[
    "PAYMENT", "BONUS", "REFUND", "ADJUSTMENT", "MODEL_USAGE", "CREDITS_EXPIRED", "INIT"
]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
TYPES: tuple[TransactionType, ...] = get_args(TransactionType)
_TRANSACTION_PARAMETERS = (
    query("from", "ISO 8601 with offset", format="date-time"),
    query("to", "ISO 8601 with offset", format="date-time"),
    query("direction", "only these", enum=list(DIRECTIONS)),
    query("type", "only these", enum=list(TYPES)),
    query("limit", "rows of a page", type="integer", minimum=1, maximum=100),
    query("cursor", "next_cursor of the page before"),
)
_CURSOR = re.compile(r"([0-9]{1,17})\.([0-9]{1,18})")


class Balance(Answer):
    """Credits that a key may still spend."""

    balance: Count
    lowBalance: bool  # noqa: N815 - the hosted API's spelling
    lowBalanceThreshold: Count  # noqa: N815
    lastUpdated: Time  # noqa: N815
    autoDebitStatus: str  # noqa: N815
    status: str
    statusExplanation: str  # noqa: N815


class Billing(Answer):
    """USD that a key may still spend."""

    current_balance: Amount
    currency: Literal["USD"]


class TopUp(Answer):
    """Tells what is paid in automatically. Nothing is, on this server."""

    is_enabled: bool
    threshold: Amount
    amount: Amount
    currency: Literal["USD"]


class BillingDetail(Answer):
    """USD that a key may still spend, and settings of the hosted API."""

    user_id: Count
    email: str
    current_balance: Amount
    currency: Literal["USD"]
    autotopup_settings: TopUp


class Transaction(Answer):
    """One charge of a key."""

    created_at: Time
    direction: Direction
    type: TransactionType
    amount: Cost
    model: str | None
    reference_id: str | None


class TransactionPage(Answer):
    """Names the place where the next page begins, if there is one."""

    next_cursor: str | None
    has_more: bool


class Transactions(Answer):
    """Charges of a key, newest first."""

    data: list[Transaction]
    pagination: TransactionPage


class BillingEndpoint:
    """The handlers; one instance for the whole app."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def routes(self, gate: Gate) -> Sequence[Route]:
        """Return the routes of what keys may spend and were charged."""
        balance = Operation("Credits that a key may still spend", Balance)
        current = Operation("USD that a key may still spend", Billing)
        detail = Operation("The same with settings", BillingDetail)
        transactions = Operation(
            "What a key was charged",
            Transactions,
            parameters=lambda: _TRANSACTION_PARAMETERS,
        )
        return [
            route(path, {"GET": Endpoint(handler, operation)}, Access.ANY_KEY, gate)
            for path, handler, operation in (
                ("/v1/billing/balance", self.balance, balance),
                ("/v2/billing", self.current, current),
                ("/v2/billing/detail", self.detail, detail),
                ("/v2/billing/transactions", self.transactions, transactions),
            )
        ]

    async def balance(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v1/billing/balance: in credits."""
        Query(scope).allow(())
        key: ApiKey = scope["state"]["api_key"]
        left = await self._left(key)
        explanation = (
            "This key has no spending limit: credit is not limited on this server."
            if key.limit is None
            else "Credits that the key's spending limit leaves in the present period."
        )
        body = Balance(
            balance=credits_of(left),
            lowBalance=credits_of(left) < LOW_BALANCE_CREDITS,
            lowBalanceThreshold=LOW_BALANCE_CREDITS,
            lastUpdated=time_text(datetime.now(UTC)),
            autoDebitStatus="disabled",
            status="current",
            statusExplanation=explanation,
        )
        await _send(send, body)

    async def current(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v2/billing: in USD."""
        Query(scope).allow(())
        left = await self._left(scope["state"]["api_key"])
        await _send(send, Billing(usd(left), "USD"))

    async def detail(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v2/billing/detail; there are no people and no payments behind a key here."""
        Query(scope).allow(())
        left = await self._left(scope["state"]["api_key"])
        topup = TopUp(is_enabled=False, threshold=0, amount=0, currency="USD")
        await _send(send, BillingDetail(0, "", usd(left), "USD", topup))

    async def transactions(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v2/billing/transactions: the charges of the key that asks, newest first."""
        key: ApiKey = scope["state"]["api_key"]
        if key.kind != "api":
            message = "A management key has no charges; ask with an API key."
            raise PermissionDeniedError(message, code="inference_key_required")
        query = Query(scope)
        query.allow(("from", "to", "direction", "type", "limit", "cursor"))
        limit = query.integer("limit", 50, 1, 100)
        start, end = _read_offset_time(query, "from"), _read_offset_time(query, "to")
        if start is not None and end is not None and end <= start:
            raise bad_parameter("to", "expected a time later than from")
        before = _read_cursor(query)
        is_charge = query.choice("direction", DIRECTIONS) in (None, "CHARGE")
        is_usage = query.choice("type", TYPES) in (None, "MODEL_USAGE")
        rows: list[UsageRow] = []
        if is_charge and is_usage:
            rows = await self._accounts.usage.charges(
                key.key_id, start=start, end=end, before=before, limit=limit + 1
            )
        page, has_more = rows[:limit], len(rows) > limit
        cursor = _cursor(page[-1]) if has_more else None
        data = [_transaction(row) for row in page]
        await _send(send, Transactions(data, TransactionPage(cursor, has_more)))

    async def _left(self, key: ApiKey) -> int:
        """Return what the key may still spend, in nano-USD."""
        if key.limit is None:
            return UNLIMITED_CREDITS * NANO_USD_PER_CREDIT
        used = await self._accounts.ledger.used(key.key_id)
        return max(0, key.limit.threshold_nano_usd - used)


def _transaction(row: UsageRow) -> Transaction:
    return Transaction(
        created_at=time_text(row.started_at),
        direction="CHARGE",
        type="MODEL_USAGE",
        amount=cost(row.nano_usd),
        model=row.model,
        reference_id=row.inference_id,
    )


def _cursor(row: UsageRow) -> str:
    """Return the place of a row in the feed, in a form that nobody should take apart."""
    moment, usage_id = row.place
    return base64.urlsafe_b64encode(f"{moment}.{usage_id}".encode()).decode("ascii")


def _read_cursor(query: Query) -> tuple[int, int] | None:
    text = query.one("cursor")
    if text is None:
        return None
    try:
        place = base64.urlsafe_b64decode(text.encode("ascii")).decode("ascii")
        match = _CURSOR.fullmatch(place)
        is_ours = base64.urlsafe_b64encode(place.encode()).decode("ascii") == text
    except ValueError:
        match, is_ours = None, False
    if match is None or not is_ours:
        raise bad_parameter("cursor", "expected a next_cursor exactly as it was sent")
    return int(match[1]), int(match[2])


def _read_offset_time(query: Query, name: str) -> datetime | None:
    text = query.one(name)
    if text is None:
        return None
    moment = read_time(name, text)
    if datetime.fromisoformat(text).tzinfo is None:
        raise bad_parameter(name, "expected an offset, such as Z or +02:00")
    return moment


async def _send(send: Send, body: Answer) -> None:
    await send_body(send, 200, msgspec.json.encode(body))
