"""Keys: made, found, switched and checked, across processes, restarts and lost files."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.accounts.api_keys import KeyStore
from nestling.accounts.key_records import NewKey
from nestling.accounts.key_text import key_hash, new_key_text, prefix_of
from nestling.errors import AuthenticationError, InvalidRequestError, NotFoundError, StoreError


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def store(data_dir: Path) -> AsyncIterator[KeyStore]:
    store = await KeyStore.open(data_dir)
    yield store
    await store.close()


async def code_of(store: KeyStore, secret: str) -> str:
    with pytest.raises(AuthenticationError) as caught:
        await store.authenticate(secret)
    return caught.value.code


def test_key_text() -> None:
    text = new_key_text()
    assert len(text.secret) == 55
    assert text.secret.startswith(f"g3n_live_{text.prefix}")
    assert prefix_of(text.secret) == text.prefix
    assert text.secret not in repr(text)
    assert len({new_key_text().secret for _ in range(1000)}) == 1000


@given(st.integers(0, 54), st.characters())
def test_any_changed_character_breaks_the_checksum(position: int, character: str) -> None:
    secret = new_key_text().secret
    changed = secret[:position] + character + secret[position + 1 :]
    assert (prefix_of(changed) is not None) == (changed == secret)


@given(st.text())
def test_no_text_is_a_key_by_chance(text: str) -> None:
    assert prefix_of(text) is None


async def test_create_and_authenticate(store: KeyStore) -> None:
    key, secret = await store.create(NewKey(name="laptop"))
    found = await store.authenticate(secret)
    assert (found.key_id, found.prefix, found.name) == (key.key_id, key.prefix, "laptop")
    assert (found.disabled, found.expires_at) == (False, None)
    assert found.created_at.tzinfo is UTC


async def test_wrong_keys(store: KeyStore) -> None:
    key, secret = await store.create(NewKey(name="a"))
    other = new_key_text().secret
    same_prefix = "g3n_live_" + key.prefix + other[17:]
    for wrong in ("", "x", secret[:-1], secret + "0", secret.lower(), other, same_prefix, "é" * 55):
        assert await code_of(store, wrong) == "invalid_api_key"


async def test_keys_that_share_their_beginning(store: KeyStore, data_dir: Path) -> None:
    """No part of a key stands for the whole: one other character, and it is another key."""
    from nestling.accounts import key_text

    key, secret = await store.create(NewKey(name="a"))
    body = secret[:-6]
    forged = body[:-1] + ("A" if body[-1] != "A" else "B")
    forged += key_text._checksum(forged)
    assert prefix_of(forged) == key.prefix
    assert await code_of(store, forged) == "invalid_api_key"


async def test_what_is_stored_is_no_key(store: KeyStore, data_dir: Path) -> None:
    _, secret = await store.create(NewKey(name="a"))
    pepper = (data_dir / "pepper").read_bytes()
    with closing(sqlite3.connect(data_dir / "accounts.db")) as connection:
        (row,) = connection.execute("SELECT * FROM api_key").fetchall()
    assert key_hash(secret, pepper) in row
    for value in row:
        assert secret[17:49] not in str(value)
        assert await code_of(store, str(value)) == "invalid_api_key"


async def test_disable_acts_on_the_next_request_also_from_another_process(
    store: KeyStore, data_dir: Path
) -> None:
    key, secret = await store.create(NewKey(name="a"))
    await store.authenticate(secret)
    script = (
        "import asyncio, pathlib, sys\n"
        "from nestling.accounts.api_keys import KeyStore\n"
        "async def main():\n"
        "    store = await KeyStore.open(pathlib.Path(sys.argv[1]))\n"
        "    await getattr(store, sys.argv[2])(sys.argv[3])\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    for action, expected in (("disable", "api_key_disabled"), ("enable", None)):
        command = [sys.executable, "-c", script, str(data_dir), action, key.prefix]
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)
        if expected is None:
            assert (await store.authenticate(secret)).key_id == key.key_id
        else:
            assert await code_of(store, secret) == expected
    await store.delete(key.key_id)
    assert await code_of(store, secret) == "invalid_api_key"


async def test_expiry(store: KeyStore) -> None:
    now = datetime.now(UTC)
    _, old = await store.create(NewKey(name="old", expires_at=now - timedelta(seconds=1)))
    _, new = await store.create(NewKey(name="new", expires_at=now + timedelta(hours=1)))
    assert await code_of(store, old) == "api_key_expired"
    expires_at = (await store.authenticate(new)).expires_at
    assert expires_at is not None
    assert abs(expires_at - now - timedelta(hours=1)) < timedelta(milliseconds=1)
    with pytest.raises(InvalidRequestError):
        await store.create(NewKey(name="naive", expires_at=datetime(2030, 1, 1)))  # noqa: DTZ001 - that is the point


async def test_a_time_that_utc_has_no_date_for_is_never_written(store: KeyStore) -> None:
    """It could not be read again, and neither could the list of keys."""
    beyond = datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=2)))
    with pytest.raises(StoreError):
        await store.create(NewKey(name="beyond", expires_at=beyond))
    assert await store.list() == []


async def test_find_by_id_prefix_or_unique_name(store: KeyStore) -> None:
    first, _ = await store.create(NewKey(name="twin"))
    second, _ = await store.create(NewKey(name="twin"))
    single, _ = await store.create(NewKey(name="single"))
    assert (await store.disable("single")).disabled
    assert (await store.enable(single.prefix)).disabled is False
    assert (await store.disable(single.key_id)).updated_at > single.updated_at
    with pytest.raises(InvalidRequestError, match=first.prefix):
        await store.disable("twin")
    for nobody in ("nobody", "%", "_" * 8, "*", "", "x" * 10_000):
        with pytest.raises(NotFoundError):
            await store.delete(nobody)
    assert [key.key_id for key in await store.list()] == [
        first.key_id,
        second.key_id,
        single.key_id,
    ]


async def test_a_secret_given_as_a_name_is_not_echoed(store: KeyStore) -> None:
    _, secret = await store.create(NewKey(name="a"))
    with pytest.raises(NotFoundError) as caught:
        await store.disable(secret)
    assert secret[9:17] not in caught.value.message


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb", "\x1b[31m"])
async def test_bad_names(store: KeyStore, name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await store.create(NewKey(name=name))
    assert caught.value.param == "name"


async def test_last_use_is_written_at_most_once_a_minute(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []
    write = store._write

    async def counted(statement: object) -> int:
        writes.append(statement)
        return await write(statement)

    _, secret = await store.create(NewKey(name="a"))
    monkeypatch.setattr(store, "_write", counted)
    await asyncio.gather(*[store.authenticate(secret) for _ in range(20)])
    await asyncio.wait(store._touches.values())
    await asyncio.gather(*[store.authenticate(secret) for _ in range(20)])
    assert len(writes) == 1
    (key,) = await store.list()
    assert key.last_used_at is not None
    assert datetime.now(UTC) - key.last_used_at < timedelta(seconds=30)


async def test_keys_survive_a_restart(data_dir: Path) -> None:
    store = await KeyStore.open(data_dir)
    _, secret = await store.create(NewKey(name="a"))
    await store.close()
    store = await KeyStore.open(data_dir)
    assert (await store.authenticate(secret)).name == "a"
    await store.close()


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}


async def test_files_are_private(store: KeyStore, data_dir: Path) -> None:
    await store.create(NewKey(name="a"))
    found = modes(data_dir)
    assert found.pop("data") == 0o700
    assert set(found) == {
        "pepper",
        "accounts.lock",
        "accounts.db",
        "accounts.db-wal",
        "accounts.db-shm",
    }
    assert set(found.values()) == {0o600}


async def test_lost_pepper(data_dir: Path) -> None:
    store = await KeyStore.open(data_dir)
    await store.close()
    (data_dir / "pepper").unlink()
    store = await KeyStore.open(data_dir)  # no keys yet: nothing is lost
    await store.create(NewKey(name="a"))
    await store.close()
    (data_dir / "pepper").unlink()
    with pytest.raises(StoreError, match=r"pepper is missing, but 1 API keys need it"):
        await KeyStore.open(data_dir)
    (data_dir / "pepper").write_bytes(b"short")
    with pytest.raises(StoreError, match="expected 32 bytes, but got 5"):
        await KeyStore.open(data_dir)


async def test_many_open_a_fresh_directory_at_once(data_dir: Path) -> None:
    stores = await asyncio.gather(*[KeyStore.open(data_dir) for _ in range(4)])
    _, secret = await stores[0].create(NewKey(name="a"))
    for store in stores:
        assert (await store.authenticate(secret)).name == "a"
    for store in stores:
        await store.close()


async def test_reading_works_while_another_process_writes(store: KeyStore, data_dir: Path) -> None:
    _, secret = await store.create(NewKey(name="a"))
    with closing(sqlite3.connect(data_dir / "accounts.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE api_key SET name = 'b'")
        assert (await store.authenticate(secret)).name == "a"
        other.execute("COMMIT")
    assert (await store.authenticate(secret)).name == "b"


async def test_a_broken_database_is_a_store_error(store: KeyStore, data_dir: Path) -> None:
    _, secret = await store.create(NewKey(name="a"))
    with closing(sqlite3.connect(data_dir / "accounts.db")) as connection:
        connection.execute("DROP TABLE api_key")
    with pytest.raises(StoreError):
        await store.authenticate(secret)
    with pytest.raises(StoreError):
        await store.list()
