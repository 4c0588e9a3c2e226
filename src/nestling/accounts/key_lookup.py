"""Reads a key for each request, on the event loop's thread, by plain sqlite3.

A read by index takes some 15 microseconds here, 60 through SQLAlchemy and 1,000 through aiosqlite's
thread. Readers do not wait for writers. A database over a network would block the loop.
"""

import json
import sqlite3
from pathlib import Path
from typing import Any

from nestling.accounts.database import BUSY_TIMEOUT_MS, reason
from nestling.accounts.key_records import ApiKey, SpendLimit
from nestling.accounts.tables import moment_of
from nestling.errors import StoreError

_COLUMNS = (
    "key_id, prefix, name, kind, disabled, scopes, limit_retention, limit_nano_usd, expires_at, "
    "created_at, updated_at, last_used_at, key_hash"
)
_BY_PREFIX = f"SELECT {_COLUMNS} FROM api_key WHERE prefix = ?"  # noqa: S608 - of constants
_BY_ID = f"SELECT {_COLUMNS} FROM api_key WHERE key_id = ?"  # noqa: S608 - of constants
_CHANGE_COUNT = "SELECT count FROM key_change"


class KeyLookup:
    """One connection for reading. Raises `StoreError` if the database cannot be read."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        self._connection.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def by_prefix(self, prefix: str) -> tuple[ApiKey, str] | None:
        """Return the key and its hash."""
        row = self._first(_BY_PREFIX, prefix)
        return None if row is None else (_key(row), row[-1])

    def by_id(self, key_id: str) -> ApiKey | None:
        """Return the key."""
        row = self._first(_BY_ID, key_id)
        return None if row is None else _key(row)

    def change_count(self) -> int:
        """Return a number that each change of any key, by any process, makes another one."""
        row = self._first(_CHANGE_COUNT)
        assert row is not None
        return int(row[0])

    def _first(self, statement: str, *values: str) -> Any:
        try:
            return self._connection.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"accounts database: cannot read: {reason(error)}") from error


def _key(row: Any) -> ApiKey:
    key_id, prefix, name, kind, disabled, scopes, retention, threshold, *moments, _ = row
    expires_at, created_at, updated_at, last_used_at = moments
    return ApiKey(
        key_id=key_id,
        prefix=prefix,
        name=name,
        kind=kind,
        disabled=bool(disabled),
        scopes=None if scopes is None else tuple(json.loads(scopes)),
        limit=None if retention is None else SpendLimit(retention, threshold),
        expires_at=None if expires_at is None else moment_of(expires_at),
        created_at=moment_of(created_at),
        updated_at=moment_of(updated_at),
        last_used_at=None if last_used_at is None else moment_of(last_used_at),
    )
