"""Opens the accounts database, and migrates it. It is SQLite in WAL mode with synced commits.

Writers take the lock at BEGIN, so that a transaction that has read may also write. Readers run in
autocommit. Several processes may have it open, such as a server and the command line.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from nestling.accounts.migrations import HEAD
from nestling.errors import StoreError

DATABASE_FILE_NAME = "accounts.db"
BUSY_TIMEOUT_MS = 5000
_MIGRATIONS = Path(__file__).parent / "migrations"


def open_database(path: Path) -> AsyncEngine:
    """Migrate the database at `path` if it needs it and return an engine on it.

    Raises `StoreError` if it is no database, or was written by a newer version of Nestling.
    """
    try:
        if _revision(path) != HEAD:
            with _migration_lock(path):
                _migrate(path)
    except (sqlite3.Error, SQLAlchemyError) as error:
        raise StoreError(
            f"{path}: expected an accounts database, but got: {reason(error)}"
        ) from error
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    _prepare(engine.sync_engine)
    return engine


def reason(error: Exception) -> str:
    """Return what the database says, without the statement and the link that SQLAlchemy adds."""
    cause = getattr(error, "orig", None)
    if cause is None and isinstance(error, SQLAlchemyError):
        cause = error.args[0] if error.args else type(error).__name__
    return str(cause or error)


def open_sync(path: Path) -> Engine:
    """Return an engine with one connection, for a thread that writes."""
    engine = create_engine(
        f"sqlite:///{path}", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    _prepare(engine)
    return engine


def _revision(path: Path) -> str | None:
    """Return the revision of the database, None if it has none. Creates no file."""
    if not path.exists():
        return None
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise
    return None if row is None else str(row[0])


@contextmanager
def _migration_lock(path: Path) -> Iterator[None]:
    """Let one process at a time migrate, as SQLite does not wait while the log mode changes."""
    fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _migrate(path: Path) -> None:
    """Bring the database to HEAD in one transaction, and keep a copy of the old one."""
    from alembic.command import upgrade
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    path.touch(mode=0o600)
    engine = create_engine(f"sqlite:///{path}")
    _prepare(engine)
    try:
        with engine.begin() as connection:
            revision = _revision(path)
            if revision is not None and revision not in known:
                raise StoreError(
                    f"{path}: this database is from a newer version of Nestling (revision "
                    f"{revision}, but this version knows up to {HEAD}); use that version"
                )
            if revision not in (None, HEAD):
                _back_up(path, path.with_name(f"{path.name}.{revision}.bak"))
            config.attributes["connection"] = connection
            upgrade(config, "head")
    finally:
        engine.dispose()


def _back_up(path: Path, copy: Path) -> None:
    """Copy a database of an older revision beside itself, so that one can go back."""
    copy.touch(mode=0o600)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _prepare(engine: Engine) -> None:
    """Set every new connection up, and make transactions take the write lock when they begin."""
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)


def _set_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
