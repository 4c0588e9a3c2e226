"""Makes, lists, changes and checks API keys. No other module decides whether a key is valid.

Each check reads the database. So a change by another process, such as the command line beside a
running server, acts on the very next request. Runs on the web process's event loop.
"""

import asyncio
import hmac
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Row, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from nestling.accounts.data_dir import prepare_data_dir
from nestling.accounts.database import DATABASE_FILE_NAME, open_database, reason
from nestling.accounts.key_lookup import KeyLookup
from nestling.accounts.key_records import ApiKey, NewKey, SpendLimit
from nestling.accounts.key_text import KEY_MARK, key_hash, new_key_text, prefix_of
from nestling.accounts.pepper import PEPPER_FILE_NAME, create_pepper, read_pepper
from nestling.accounts.tables import api_key_table, key_change_table
from nestling.errors import AuthenticationError, InvalidRequestError, NotFoundError, StoreError
from nestling.log import get_logger

MAX_NAME_LENGTH = 100
NAME_PATTERN = (
    r"^[^\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ufeff\ufff9-\uffff]*$"
)
"""No controls, no marks that steer a terminal or turn the direction of text. Read alike by Python
and, in the OpenAPI document, by ECMAScript and by Rust."""
LAST_USED_STEP = timedelta(minutes=1)
"""`last_used_at` is written at most this often, so that requests do not become writes."""

_NAME = re.compile(NAME_PATTERN)
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Lone surrogates come from arguments of the command line that are no UTF-8, never from JSON."""
_log = get_logger("accounts")
_t = api_key_table.c
_NEEDS = "This request requires a valid API key."
"""The hosted API's message for all of these. The reason follows it."""
_NO_HASH = "0" * 64
"""The hash to compare with if there is no such key, so that both cases take the same steps."""
_COUNT_CHANGE = update(key_change_table).values(count=key_change_table.c.count + 1)


def utc_now() -> datetime:
    """Return the time. Tests replace this function."""
    return datetime.now(UTC)


class KeyStore:
    """The keys of one data directory. Make it with `open`; `close` it in the same event loop.

    Database trouble is raised as `StoreError`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        lookup: KeyLookup,
        pepper: bytes,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change that this store has made."""
        self._now = now
        self.engine = engine
        self._lookup = lookup
        self._reader = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._pepper = pepper
        self._touches: dict[str, asyncio.Task[None]] = {}

    @classmethod
    async def open(cls, data_dir: Path, now: Callable[[], datetime] = utc_now) -> "KeyStore":
        """Create or open the database and the pepper in `data_dir`."""
        prepare_data_dir(data_dir)
        engine = await asyncio.to_thread(open_database, data_dir / DATABASE_FILE_NAME)
        try:
            pepper = read_pepper(data_dir)
            if pepper is None:
                await _refuse_lost_pepper(engine, data_dir)
                pepper = create_pepper(data_dir)
            lookup = KeyLookup(data_dir / DATABASE_FILE_NAME)
        except BaseException:
            await engine.dispose()
            raise
        return cls(engine, lookup, pepper, now)

    async def close(self) -> None:
        """Write what is still to be written and close the database."""
        if self._touches:
            await asyncio.wait(self._touches.values())
        self._lookup.close()
        await self.engine.dispose()

    async def create(self, new: NewKey) -> tuple[ApiKey, str]:
        """Make a key. The second item is its text, which nobody can tell again."""
        _check_name(new.name)
        if new.expires_at is not None and new.expires_at.tzinfo is None:
            raise InvalidRequestError("expires_at: expected a time with a zone", param="expires_at")
        while True:
            text = new_key_text()
            values = {
                "key_id": uuid.uuid4().hex,
                "prefix": text.prefix,
                "key_hash": key_hash(text.secret, self._pepper),
                "kind": new.kind,
                "disabled": False,
                "expires_at": new.expires_at,
                "created_at": self._now(),
                "updated_at": self._now(),
                **_stored({"name": new.name, "scopes": new.scopes, "limit": new.limit}),
            }
            try:
                await self._change(insert(api_key_table).values(values))
            except IntegrityError:
                continue  # the prefix is taken: draw again
            return await self.by_prefix(text.prefix), text.secret

    async def list(self) -> Sequence[ApiKey]:
        """Return all keys, oldest first."""
        rows = await self._read(select(api_key_table).order_by(_t.created_at, _t.key_id))
        return [_from_row(row) for row in rows]

    async def by_prefix(self, prefix: str) -> ApiKey:
        """Return the key with exactly this prefix. Raises `NotFoundError`."""
        rows = await self._read(select(api_key_table).where(_t.prefix == prefix))
        if not rows:
            raise _unknown(prefix)
        return _from_row(rows[0])

    async def update(self, prefix: str, **changes: Any) -> ApiKey:
        """Change `name`, `disabled`, `scopes` or `limit` of the key with exactly this prefix."""
        assert changes.keys() <= {"name", "disabled", "scopes", "limit"}
        if "name" in changes:
            _check_name(changes["name"])
        values = {**_stored(changes), "updated_at": self._now()}
        change = update(api_key_table).where(_t.prefix == prefix)
        if changes and await self._change(change.values(values)) == 0:
            raise _unknown(prefix)
        return await self.by_prefix(prefix)

    async def disable(self, which: str) -> ApiKey:
        """Refuse the key from its next request on. `which` is a key id, prefix or unique name."""
        return await self.update((await self.find(which)).prefix, disabled=True)

    async def enable(self, which: str) -> ApiKey:
        """Accept the key again."""
        return await self.update((await self.find(which)).prefix, disabled=False)

    async def delete(self, which: str) -> ApiKey:
        """Remove the key for good, and return it as it was."""
        key = await self.find(which)
        if await self._change(delete(api_key_table).where(_t.key_id == key.key_id)) == 0:
            raise _unknown(which)
        return key

    async def find(self, which: str) -> ApiKey:
        """Return the key with this id, prefix or unique name. Raises `NotFoundError`."""
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
        """Return the key with this text. Raises `AuthenticationError` with the reason."""
        prefix = prefix_of(secret)
        if prefix is None:
            raise AuthenticationError(f"Incorrect API key provided. {_NEEDS}")
        found = self._lookup.by_prefix(prefix)
        stored = _NO_HASH if found is None else found[1]
        is_equal = hmac.compare_digest(key_hash(secret, self._pepper), stored)
        if found is None or not is_equal:
            raise AuthenticationError(f"Incorrect API key provided. {_NEEDS}")
        key, now = found[0], self._now()
        _require_good(key, now)
        self._note_use(key, now)
        return key

    def recheck(self, key_id: str) -> ApiKey:
        """Return the key as it is now. Raises `AuthenticationError` if it is no longer valid."""
        key = self._lookup.by_id(key_id)
        if key is None:
            raise AuthenticationError(f"{_NEEDS} This one has been deleted.")
        _require_good(key, self._now())
        return key

    def change_count(self) -> int:
        """Return a number that each change of any key, by any process, makes another one."""
        return self._lookup.change_count()

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

    async def _read(self, statement: Any) -> Sequence[Row[Any]]:
        try:
            async with self._reader.connect() as connection:
                return (await connection.execute(statement)).all()
        except SQLAlchemyError as error:
            raise StoreError(f"accounts database: cannot read: {reason(error)}") from error

    async def _change(self, statement: Any) -> int:
        """Change keys, tell all servers that watch, and return the number of changed rows."""
        count = await self._write(statement, _COUNT_CHANGE)
        self.on_change()
        return count

    async def _write(self, *statements: Any) -> int:
        """Run statements in one transaction, and return the rows that the first one changed."""
        try:
            async with self.engine.begin() as connection:
                counts = [(await connection.execute(s)).rowcount for s in statements]
                return int(counts[0])
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise StoreError(f"accounts database: cannot write: {reason(error)}") from error


async def _refuse_lost_pepper(engine: AsyncEngine, data_dir: Path) -> None:
    """Raise if keys were made under a pepper that is gone, as they can never be accepted."""
    try:
        async with engine.connect() as connection:
            statement = select(func.count()).select_from(api_key_table)
            count = (await connection.execute(statement)).scalar()
    except SQLAlchemyError as error:
        raise StoreError(f"accounts database: cannot read: {reason(error)}") from error
    if count:
        raise StoreError(
            f"{data_dir / PEPPER_FILE_NAME} is missing, but {count} API keys need it: restore it "
            f"from a backup, or remove {data_dir / DATABASE_FILE_NAME} and make new keys"
        )


def is_printable(name: str) -> bool:
    """Tell whether a key's name is one that can be shown as it is."""
    return _NAME.fullmatch(name) is not None and _SURROGATE.search(name) is None


def _check_name(name: str | None) -> None:
    if name is not None and (not 1 <= len(name) <= MAX_NAME_LENGTH or not is_printable(name)):
        message = f"name: expected 1 to {MAX_NAME_LENGTH} printable characters, but got "
        raise InvalidRequestError(message + ascii(name[:40]), param="name")


def _require_good(key: ApiKey, now: datetime) -> None:
    if key.disabled:
        raise AuthenticationError(f"{_NEEDS} This one is disabled.", code="api_key_disabled")
    if key.is_expired(now):
        raise AuthenticationError(f"{_NEEDS} This one has expired.", code="api_key_expired")


def _unknown(which: str) -> NotFoundError:
    shown = f"{KEY_MARK}..." if which.startswith(KEY_MARK) else which[:40]
    return NotFoundError(f"there is no key {shown!a}; expected a key id, a prefix or a name")


def _stored(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an `ApiKey`'s fields are in the database."""
    values = dict(changes)
    if "scopes" in values:
        scopes = values["scopes"]
        values["scopes"] = None if scopes is None else json.dumps(scopes)
    if "limit" in values:
        limit: SpendLimit | None = values.pop("limit")
        values["limit_retention"] = limit and limit.retention
        values["limit_nano_usd"] = limit and limit.threshold_nano_usd
    return values


def _from_row(row: Row[Any]) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        prefix=row.prefix,
        name=row.name,
        kind=row.kind,
        disabled=row.disabled,
        scopes=None if row.scopes is None else tuple(json.loads(row.scopes)),
        limit=limit_of(row),
        expires_at=row.expires_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_used_at=row.last_used_at,
    )


def limit_of(row: Row[Any]) -> SpendLimit | None:
    """Return the limit in a row of `api_key`."""
    if row.limit_retention is None:
        return None
    return SpendLimit(row.limit_retention, row.limit_nano_usd)
