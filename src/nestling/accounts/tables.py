"""The accounts database's tables. Migrations build them; a test compares the two."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData()
_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """Return an aware time as whole microseconds since 1970 UTC, without rounding.

    Raises `OverflowError` for a time without a date in UTC, which nobody could read again.
    """
    return (moment.astimezone(UTC) - _EPOCH) // _MICROSECOND


def moment_of(count: int) -> datetime:
    """Return the UTC time of so many microseconds since 1970."""
    return _EPOCH + count * _MICROSECOND


class Timestamp(TypeDecorator[datetime]):
    """An aware datetime, stored as microseconds since 1970 UTC."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Return the value for the database."""
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the value of the database as a time."""
        return None if value is None else moment_of(value)


api_key_table = Table(
    "api_key",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("prefix", String(8), nullable=False, unique=True),
    Column("key_hash", String(64), nullable=False),
    Column("name", String(100)),
    Column("kind", String(10), nullable=False, server_default="api"),
    Column("disabled", Boolean, nullable=False),
    Column("scopes", Text),
    Column("limit_retention", String(10)),
    Column("limit_nano_usd", BigInteger),
    Column("expires_at", Timestamp),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Column("last_used_at", Timestamp),
)
"""`key_hash` is the HMAC-SHA-256 of the whole key text under the server's pepper, in hex; `scopes`
is a JSON array, or null for all."""

key_change_table = Table(
    "key_change",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("count", BigInteger, nullable=False),
)
"""Its one row counts the changes of all keys. Running servers watch it."""


def _inference_columns() -> tuple[Column[object], ...]:
    return (
        Column("key_id", String(32), nullable=False),
        Column("key_prefix", String(8), nullable=False),
        Column("request_id", String(64), nullable=False),
        Column("client_request_id", String(128)),
        Column("endpoint", String(64), nullable=False),
        Column("model", String(256), nullable=False),
        Column("origin", String(16), nullable=False),
        Column("is_streamed", Boolean, nullable=False),
        Column("started_at", Timestamp, nullable=False),
        Column("prompt_tokens", BigInteger, nullable=False),
        Column("completion_tokens", BigInteger, nullable=False),
        Column("nano_usd", BigInteger, nullable=False),
    )


reservation_table = Table(
    "reservation",
    metadata,
    Column("inference_id", String(64), primary_key=True),
    *_inference_columns(),
)
"""A row is a running request of a key with a limit. `nano_usd` is the most that it may cost. The
tokens are those that it was last known to have used."""
Index("ix_reservation_key_id", reservation_table.c.key_id)

usage_table = Table(
    "usage",
    metadata,
    Column("usage_id", Integer, primary_key=True),
    Column("inference_id", String(64), nullable=False, unique=True),
    *_inference_columns(),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("succeeded", Boolean, nullable=False),
    Column("ttft_ms", Float),
    Column("duration_ms", Float, nullable=False),
)
"""A row is a request that has ended. It stays when its key is deleted."""
Index("ix_usage_key_id_started_at", usage_table.c.key_id, usage_table.c.started_at)

key_spend_table = Table(
    "key_spend",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("day", Integer, primary_key=True),
    Column("nano_usd", BigInteger, nullable=False),
)
"""Sums of `usage` by key and day (since 1970, UTC) of the start, kept in the same transactions."""
