"""The database file: pragmas, migrations, versions that are not ours; the data directory's lock."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.command import downgrade
from alembic.config import Config
from sqlalchemy import create_engine

from nestling.accounts import migrations
from nestling.accounts.api_keys import KeyStore
from nestling.accounts.data_dir import ServerLock, prepare_data_dir
from nestling.accounts.database import DATABASE_FILE_NAME, open_database, open_sync
from nestling.accounts.key_records import NewKey
from nestling.accounts.migrations import HEAD
from nestling.accounts.tables import metadata
from nestling.errors import SettingsError, StoreError

MIGRATIONS = Path(migrations.__file__).parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts.db"


async def fresh(path: Path) -> None:
    await open_database(path).dispose()


def columns(path: Path) -> dict[str, set[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: {row[1:] for row in connection.execute(f"PRAGMA table_info({name})")}
            for (name,) in names
            if name != "alembic_version"
        }


async def test_migrations_build_what_the_tables_say(path: Path, tmp_path: Path) -> None:
    await fresh(path)
    other = tmp_path / "other.db"
    engine = create_engine(f"sqlite:///{other}")
    metadata.create_all(engine)
    engine.dispose()
    assert columns(path) == columns(other)


async def test_head_is_the_newest_migration(path: Path) -> None:
    await fresh(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


async def test_commits_are_synced_and_the_log_is_wal(path: Path) -> None:
    await fresh(path)
    engine = open_sync(path)
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    engine.dispose()
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 5000,
        "foreign_keys": 1,
    }


async def test_newer_database_is_refused_and_untouched(path: Path) -> None:
    await fresh(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(StoreError, match=r"newer version of Nestling \(revision 9999"):
        open_database(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"accounts\.db"):
        open_database(path)


async def test_current_database_opens_without_alembic(path: Path) -> None:
    await fresh(path)
    script = (
        "import sys, pathlib; from nestling.accounts.database import open_database; "
        "open_database(pathlib.Path(sys.argv[1])); sys.exit('alembic' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(path)]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)


def test_one_server_a_directory(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from nestling.accounts.data_dir import ServerLock\n"
        "with ServerLock(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(SettingsError, match=f"process {other.pid}"), ServerLock(tmp_path):
            pass
        other.kill()
    with ServerLock(tmp_path):
        assert (tmp_path / "server.lock").read_text().strip().isdecimal()
    with ServerLock(tmp_path):
        pass


def test_data_dir_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingsError, match="data_dir"):
            prepare_data_dir(bad)


async def test_a_database_of_the_first_revision_comes_through(tmp_path: Path) -> None:
    path = tmp_path / DATABASE_FILE_NAME
    await fresh(path)
    store = await KeyStore.open(tmp_path)
    _, secret = await store.create(NewKey(name="old"))
    await store.close()
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        downgrade(config, "0001")
    engine.dispose()
    store = await KeyStore.open(tmp_path)
    key = await store.authenticate(secret)
    await store.close()
    assert (key.name, key.kind, key.scopes, key.limit) == ("old", "api", None, None)
    backup = tmp_path / f"{DATABASE_FILE_NAME}.0001.bak"
    assert backup.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("SELECT name FROM api_key").fetchall() == [("old",)]
