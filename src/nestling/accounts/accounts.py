"""Opens all of one data directory that a server needs: keys, ledger, reports, the watch."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from nestling.accounts.api_keys import KeyStore, utc_now
from nestling.accounts.database import DATABASE_FILE_NAME, open_sync, reason
from nestling.accounts.key_watch import KeyWatch
from nestling.accounts.ledger import Ledger
from nestling.accounts.ledger_writer import LedgerWriter
from nestling.accounts.money import Prices
from nestling.accounts.usage import UsageReports
from nestling.errors import StoreError
from nestling.log import get_logger

_log = get_logger("accounts")


class Accounts:
    """The accounts of one data directory. The one server of it calls `open` and `close`."""

    def __init__(self, keys: KeyStore, ledger: Ledger, now: Callable[[], datetime]) -> None:
        self.keys = keys
        self.ledger = ledger
        self.prices = ledger.prices
        self.usage = UsageReports(keys.engine, ledger, now)
        self.watch = KeyWatch(keys, ledger)

    @classmethod
    async def open(
        cls, data_dir: Path, prices: Prices, now: Callable[[], datetime] = utc_now
    ) -> "Accounts":
        """Open the directory, and first settle the requests that a crashed server left."""
        keys = await KeyStore.open(data_dir, now)
        writer = LedgerWriter(open_sync(data_dir / DATABASE_FILE_NAME), now)
        try:
            num_left = await asyncio.to_thread(writer.recover, prices)
        except BaseException as error:
            writer.close()
            await keys.close()
            if isinstance(error, SQLAlchemyError):
                raise StoreError(f"accounts database: cannot write: {reason(error)}") from error
            raise
        if num_left:
            _log.warning("settled requests of a server that died", num_requests=num_left)
        return cls(keys, Ledger(writer, prices), now)

    async def close(self) -> None:
        """Write what is still to be written and close the database."""
        await self.watch.close()
        await self.ledger.close()
        await self.keys.close()
