"""The accounts database's tables. Migrations build them; a test compares the two."""

from datetime import UTC, datetime

from sqlalchemy import BigInteger, Boolean, Column, Dialect, MetaData, String, Table
from sqlalchemy.types import TypeDecorator

metadata = MetaData()


class Timestamp(TypeDecorator[datetime]):
    """An aware datetime, stored as microseconds since 1970 UTC."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """To the database."""
        return None if value is None else round(value.timestamp() * 1e6)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """From the database."""
        return None if value is None else datetime.fromtimestamp(value / 1e6, tz=UTC)


api_key_table = Table(
    "api_key",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("prefix", String(8), nullable=False, unique=True),
    Column("key_hash", String(64), nullable=False),
    Column("name", String(100), nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("expires_at", Timestamp),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Column("last_used_at", Timestamp),
)
"""`key_hash` is the HMAC-SHA-256 of the whole key text under the server's pepper, in hex."""
