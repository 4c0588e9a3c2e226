"""API keys: made, listed, switched, checked. The only place that knows whether a key is good.

Every check reads the database, so that what another process does (the command line beside a running
server) acts on the very next request. Runs on the web process's event loop.
"""

import asyncio
import hmac
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from nestling.accounts.data_dir import prepare_data_dir
from nestling.accounts.database import DATABASE_FILE_NAME, open_database, open_lookup
from nestling.accounts.key_text import KEY_MARK, key_hash, new_key_text, prefix_of
from nestling.accounts.pepper import PEPPER_FILE_NAME, create_pepper, read_pepper
from nestling.accounts.tables import api_key_table
from nestling.errors import AuthenticationError, InvalidRequestError, NotFoundError, StoreError
from nestling.log import get_logger

MAX_NAME_LENGTH = 100
LAST_USED_STEP = timedelta(minutes=1)
"""`last_used_at` is written at most this often, so that requests do not become writes."""

_log = get_logger("accounts")
_t = api_key_table.c
_NO_HASH = "0" * 64
"""Compared with when there is no such key, so that both cases take the same steps."""
_BY_PREFIX = select(api_key_table).where(_t.prefix == bindparam("prefix"))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key. Times are UTC."""

    key_id: str
    prefix: str
    """8 characters, unique; the only part of the key's text that may be shown again."""
    name: str
    disabled: bool
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None

    def is_expired(self, now: datetime) -> bool:
        """Tell whether the key has run out."""
        return self.expires_at is not None and self.expires_at <= now


class KeyStore:
    """The keys of one data directory. Make it with `open`; `close` it in the same event loop.

    Database trouble is raised as `StoreError`.
    """

    def __init__(self, engine: AsyncEngine, lookup: Connection, pepper: bytes) -> None:
        self._engine = engine
        self._lookup = lookup
        self._reader = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._pepper = pepper
        self._touches: dict[str, asyncio.Task[None]] = {}

    @classmethod
    async def open(cls, data_dir: Path) -> "KeyStore":
        """Create or open the database and the pepper in `data_dir`."""
        prepare_data_dir(data_dir)
        engine = await asyncio.to_thread(open_database, data_dir / DATABASE_FILE_NAME)
        try:
            pepper = read_pepper(data_dir)
            if pepper is None:
                await _refuse_lost_pepper(engine, data_dir)
                pepper = create_pepper(data_dir)
            lookup = open_lookup(data_dir / DATABASE_FILE_NAME)
        except BaseException:
            await engine.dispose()
            raise
        return cls(engine, lookup, pepper)

    async def close(self) -> None:
        """Write what is still to be written and close the database."""
        if self._touches:
            await asyncio.wait(self._touches.values())
        self._lookup.close()
        self._lookup.engine.dispose()
        await self._engine.dispose()

    async def create(self, name: str, expires_at: datetime | None = None) -> tuple[ApiKey, str]:
        """Make a key; the second item is its text, which nobody can tell again."""
        if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable():
            message = f"name: expected 1 to {MAX_NAME_LENGTH} printable characters, but got "
            raise InvalidRequestError(message + ascii(name[:40]), param="name")
        if expires_at is not None and expires_at.tzinfo is None:
            raise InvalidRequestError("expires_at: expected a time with a zone", param="expires_at")
        while True:
            text = new_key_text()
            now = datetime.now(UTC)
            key = ApiKey(uuid.uuid4().hex, text.prefix, name, False, expires_at, now, now, None)
            values = {name: getattr(key, name) for name in ApiKey.__slots__}
            values["key_hash"] = key_hash(text.secret, self._pepper)
            try:
                await self._write(insert(api_key_table).values(values))
            except IntegrityError:
                continue  # the prefix is taken: draw again
            return key, text.secret

    async def list(self) -> Sequence[ApiKey]:
        """Return all keys, oldest first."""
        rows = await self._read(select(api_key_table).order_by(_t.created_at, _t.key_id))
        return [_from_row(row) for row in rows]

    async def disable(self, which: str) -> ApiKey:
        """Refuse the key from its next request on. `which` is a key id, prefix or unique name."""
        return await self._switch(which, disabled=True)

    async def enable(self, which: str) -> ApiKey:
        """Accept the key again."""
        return await self._switch(which, disabled=False)

    async def delete(self, which: str) -> ApiKey:
        """Remove the key for good; returns what it was."""
        key = await self.find(which)
        if await self._write(delete(api_key_table).where(_t.key_id == key.key_id)) == 0:
            raise _unknown(which)
        return key

    async def find(self, which: str) -> ApiKey:
        """Return the key with this id, prefix or unique name; raises `NotFoundError`."""
        matches = or_(_t.key_id == which, _t.prefix == which, _t.name == which)
        keys = [_from_row(row) for row in await self._read(select(api_key_table).where(matches))]
        exact = [key for key in keys if which in (key.key_id, key.prefix)] or keys
        if not exact:
            raise _unknown(which)
        if len(exact) > 1:
            prefixes = ", ".join(key.prefix for key in exact)
            message = f"{which!a} names {len(exact)} keys; give one of the prefixes {prefixes}"
            raise InvalidRequestError(message, param="key")
        return exact[0]

    async def authenticate(self, secret: str) -> ApiKey:
        """Return the key with this text; raises `AuthenticationError` with the reason."""
        prefix = prefix_of(secret)
        if prefix is None:
            raise AuthenticationError("Incorrect API key provided.")
        row = self._look_up(prefix)
        stored = _NO_HASH if row is None else row.key_hash
        is_equal = hmac.compare_digest(key_hash(secret, self._pepper), stored)
        if row is None or not is_equal:
            raise AuthenticationError("Incorrect API key provided.")
        key, now = _from_row(row), datetime.now(UTC)
        if key.disabled:
            raise AuthenticationError("This API key is disabled.", code="api_key_disabled")
        if key.is_expired(now):
            raise AuthenticationError("This API key has expired.", code="api_key_expired")
        self._note_use(key, now)
        return key

    async def _switch(self, which: str, *, disabled: bool) -> ApiKey:
        key = await self.find(which)
        change = update(api_key_table).where(_t.key_id == key.key_id)
        now = datetime.now(UTC)
        if await self._write(change.values(disabled=disabled, updated_at=now)) == 0:
            raise _unknown(which)
        return await self.find(key.key_id)

    def _note_use(self, key: ApiKey, now: datetime) -> None:
        """Write `last_used_at` in the background, if the last time was long enough ago."""
        is_recent = key.last_used_at is not None and now - key.last_used_at < LAST_USED_STEP
        if is_recent or key.key_id in self._touches:
            return
        task = asyncio.create_task(self._touch(key, now))
        self._touches[key.key_id] = task
        task.add_done_callback(lambda _: self._touches.pop(key.key_id))

    async def _touch(self, key: ApiKey, now: datetime) -> None:
        change = update(api_key_table).where(_t.key_id == key.key_id).values(last_used_at=now)
        try:
            await self._write(change)
        except StoreError as error:
            _log.warning("last use not written", key_prefix=key.prefix, problem=error.message)

    def _look_up(self, prefix: str) -> Row[Any] | None:
        try:
            return self._lookup.execute(_BY_PREFIX, {"prefix": prefix}).first()
        except SQLAlchemyError as error:
            raise StoreError(f"accounts database: cannot read: {error}") from error

    async def _read(self, statement: Any) -> Sequence[Row[Any]]:
        try:
            async with self._reader.connect() as connection:
                return (await connection.execute(statement)).all()
        except SQLAlchemyError as error:
            raise StoreError(f"accounts database: cannot read: {error}") from error

    async def _write(self, statement: Any) -> int:
        """Run one statement in a transaction of its own; returns how many rows it changed."""
        try:
            async with self._engine.begin() as connection:
                return int((await connection.execute(statement)).rowcount)
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise StoreError(f"accounts database: cannot write: {error}") from error


async def _refuse_lost_pepper(engine: AsyncEngine, data_dir: Path) -> None:
    """Keys that were made under a pepper which is gone can never be accepted again: say so."""
    async with engine.connect() as connection:
        count = (await connection.execute(select(func.count()).select_from(api_key_table))).scalar()
    if count:
        raise StoreError(
            f"{data_dir / PEPPER_FILE_NAME} is missing, but {count} API keys need it: restore it "
            f"from a backup, or remove {data_dir / DATABASE_FILE_NAME} and make new keys"
        )


def _unknown(which: str) -> NotFoundError:
    shown = f"{KEY_MARK}..." if which.startswith(KEY_MARK) else which[:40]
    return NotFoundError(f"there is no key {shown!a}; expected a key id, a prefix or a name")


def _from_row(row: Row[Any]) -> ApiKey:
    return ApiKey(**{name: getattr(row, name) for name in ApiKey.__slots__})
