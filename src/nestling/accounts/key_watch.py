"""Ends running requests whose key is no longer valid, whichever process changed it.

Runs on the event loop of the server. A counter in the database tells that some key was changed, and
only then the keys of running requests are looked at again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nestling.accounts.api_keys import KeyStore
from nestling.accounts.key_records import ApiKey, require_scope
from nestling.accounts.ledger import Ledger
from nestling.errors import (
    AuthenticationError,
    NestlingError,
    PermissionDeniedError,
    StoreError,
)
from nestling.log import get_logger

POLL_INTERVAL_S = 0.25
_log = get_logger("accounts")


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    key_id: str
    scope: str
    expires: bool
    stop: asyncio.Future[NestlingError]


class KeyWatch:
    """Watches the keys of running requests. `Accounts.open` makes it on a running loop."""

    def __init__(self, keys: KeyStore, ledger: Ledger) -> None:
        self._keys = keys
        self._ledger = ledger
        self._running: set[_Running] = set()
        self._seen = keys.change_count()
        self._wake = asyncio.Event()
        keys.on_change = self._wake.set
        self._task = asyncio.create_task(self._run())

    @contextmanager
    def watch(self, key: ApiKey, scope: str) -> Iterator[asyncio.Future[NestlingError]]:
        """Yield a future that gets the error which ends the request if the key is lost."""
        stop: asyncio.Future[NestlingError] = asyncio.get_running_loop().create_future()
        running = _Running(key.key_id, scope, key.expires_at is not None, stop)
        self._running.add(running)
        try:
            yield stop
        finally:
            self._running.discard(running)
            stop.cancel()

    async def close(self) -> None:
        """Stop watching."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._look()
            except StoreError as error:
                _log.warning("keys of running requests not checked", problem=error.message)
            except Exception:  # noqa: BLE001 - a defect must not leave later changes unseen
                _log.exception("keys of running requests not checked")

    async def _look(self) -> None:
        count = self._keys.change_count()
        is_changed = count != self._seen
        suspects: dict[tuple[str, str], list[_Running]] = {}
        for running in self._running:
            if (is_changed or running.expires) and not running.stop.done():
                suspects.setdefault((running.key_id, running.scope), []).append(running)
        for (key_id, scope), group in suspects.items():
            error = await self._problem(key_id, scope, is_changed=is_changed)
            for running in group:
                if error is not None and not running.stop.done():
                    running.stop.set_result(type(error)(error.message, code=error.code))
        self._seen = count

    async def _problem(self, key_id: str, scope: str, *, is_changed: bool) -> NestlingError | None:
        """Return the error that a new request with this key would get."""
        try:
            key = self._keys.recheck(key_id)
            require_scope(key, scope)
            if is_changed and key.limit is not None:
                await self._ledger.hold(key_id)
        except (AuthenticationError, PermissionDeniedError) as error:
            return error
        return None
