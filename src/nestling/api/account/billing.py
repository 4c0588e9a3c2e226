"""/v1/billing/balance and /v2/billing: what a key may still spend, and what it was charged.

There is no account that is paid into: a key with a limit has what the limit leaves, a key without
one has `UNLIMITED_CREDITS`.
"""

import base64
import re
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from nestling.accounts.accounts import Accounts
from nestling.accounts.key_records import ApiKey
from nestling.accounts.money import NANO_USD_PER_CREDIT, credits_of, usd
from nestling.accounts.usage import UsageRow
from nestling.api.account.usage import read_time
from nestling.api.requests.queries import Query, bad_parameter
from nestling.errors import PermissionDeniedError
from nestling.server.answers import send_body, time_text

UNLIMITED_CREDITS = 2 * 10**15
"""What a key without a limit is told to have: a billion dollars."""
LOW_BALANCE_CREDITS = 10_000
DIRECTIONS = ("TOPUP", "CHARGE")
TYPES = (
    "PAYMENT",
    "BONUS",
    "REFUND",
    "ADJUSTMENT",
    "MODEL_USAGE",
    "CREDITS_EXPIRED",
    "INIT",
)
_CURSOR = re.compile(r"([0-9]{1,17})\.([0-9]{1,18})")


class BillingEndpoint:
    """The handlers; one instance for the whole app."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

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
        body = {
            "balance": credits_of(left),
            "lowBalance": credits_of(left) < LOW_BALANCE_CREDITS,
            "lowBalanceThreshold": LOW_BALANCE_CREDITS,
            "lastUpdated": time_text(datetime.now(UTC)),
            "autoDebitStatus": "disabled",
            "status": "current",
            "statusExplanation": explanation,
        }
        await _send(send, body)

    async def current(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v2/billing: in USD."""
        Query(scope).allow(())
        left = await self._left(scope["state"]["api_key"])
        await _send(send, {"current_balance": usd(left), "currency": "USD"})

    async def detail(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v2/billing/detail; there are no people and no payments behind a key here."""
        Query(scope).allow(())
        left = await self._left(scope["state"]["api_key"])
        topup = {"is_enabled": False, "threshold": 0, "amount": 0, "currency": "USD"}
        body = {
            "user_id": 0,
            "email": "",
            "current_balance": usd(left),
            "currency": "USD",
            "autotopup_settings": topup,
        }
        await _send(send, body)

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
        pagination = {"next_cursor": cursor, "has_more": has_more}
        await _send(send, {"data": [_entry(row) for row in page], "pagination": pagination})

    async def _left(self, key: ApiKey) -> int:
        """Return what the key may still spend, in nano-USD."""
        if key.limit is None:
            return UNLIMITED_CREDITS * NANO_USD_PER_CREDIT
        used = await self._accounts.ledger.used(key.key_id)
        return max(0, key.limit.threshold_nano_usd - used)


def _entry(row: UsageRow) -> dict[str, Any]:
    return {
        "created_at": time_text(row.started_at),
        "direction": "CHARGE",
        "type": "MODEL_USAGE",
        "amount": {"usd": usd(row.nano_usd), "credits": credits_of(row.nano_usd)},
        "model": row.model,
        "reference_id": row.inference_id,
    }


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


async def _send(send: Send, body: Any) -> None:
    await send_body(send, 200, msgspec.json.encode(body))
