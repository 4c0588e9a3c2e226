"""`nestling keys`: each command by its effect on the data directory, its output and exit code."""

import json
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nestling.accounts.database import DATABASE_FILE_NAME
from nestling.errors import StoreError
from tests.cli.conftest import Call

KEY = re.compile(r"g3n_live_[0-9A-Za-z]{46}\n")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def listed(call: Call) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(call("keys", "list", "--json").out)
    return rows


def test_create_prints_the_key_and_nothing_else(call: Call) -> None:
    done = call("keys", "create", "--name", "laptop")
    assert (done.exit_code, done.err) == (0, "")
    assert KEY.fullmatch(done.out)
    (row,) = listed(call)
    assert row["prefix"] == done.out[9:17]
    assert done.out.strip() not in json.dumps(row)
    assert (row["name"], row["kind"], row["state"]) == ("laptop", "api", "enabled")
    assert row["scopes"] is row["limit"] is row["expires_at"] is row["last_used_at"] is None


def test_create_takes_options(call: Call) -> None:
    options = ("--scope", "model:chat", "--scope", "model:chat", "--limit", "0.50/day")
    made = json.loads(
        call("keys", "create", "-n", "x", *options, "--expires-days", "36500", "--json").out
    )
    assert KEY.fullmatch(made.pop("key") + "\n")
    assert made == listed(call)[0]
    assert (made["scopes"], made["limit"]) == (["model:chat"], "0.5/day")
    end = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=36499) < end <= timedelta(days=36500)
    assert json.loads(call("keys", "create", "-n", "m", "--management", "--json").out)["kind"] == (
        "management"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "Missing option '--name'"),
        (("--name", ""), "name: expected 1 to 100 printable characters, but got ''"),
        (("--name", "a\x1b[2J"), r"but got 'a\x1b[2J'"),
        (("--name", "x", "--limit", "5/"), "but got '5/'"),
        (("--name", "x", "--limit", "5/year"), "/day, /week, /month"),
        (("--name", "x", "--limit", "-5"), "--limit: expected dollars"),
        (("--name", "x", "--limit", "5\n"), r"but got '5\n'"),
        (("--name", "x", "--scope", "all"), "--scope: expected one of model:chat"),
        (("--name", "x", "--expires-days", "0"), "--expires-days"),
        (("--name", "x", "--expires-days", "99999999"), "--expires-days"),
        (("--name", "x", "--management", "--limit", "5"), "a management key does no inference"),
        (("--name", "x", "--management", "--scope", "model:chat"), "does no inference"),
    ],
    ids=str,
)
def test_what_cannot_be_makes_no_key(call: Call, options: tuple[str, ...], said: str) -> None:
    done = call("keys", "create", *options)
    assert (done.exit_code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert listed(call) == []


def test_a_key_is_switched_by_name_and_prefix_and_deleted(call: Call) -> None:
    prefix = call("keys", "create", "--name", "laptop").out[9:17]
    done = call("keys", "disable", "laptop")
    assert (done.exit_code, done.out) == (0, f"disabled {prefix} (laptop)\n")
    assert listed(call)[0]["state"] == "disabled"
    done = call("keys", "enable", prefix, "--json")
    assert json.loads(done.out) == listed(call)[0] | {"done": "enabled"}
    assert call("keys", "delete", prefix).out == f"deleted {prefix} (laptop)\n"
    assert listed(call) == []


@pytest.mark.parametrize("command", ["disable", "enable", "delete"])
def test_a_key_that_is_not_there(call: Call, command: str) -> None:
    done = call("keys", command, "nobody\x1b")
    assert (done.exit_code, done.out) == (1, "")
    assert done.err == (
        r"nestling: there is no key 'nobody\x1b'; expected a key id, a prefix or a name" + "\n"
    )


def test_a_name_of_two_keys_names_none(call: Call) -> None:
    for _ in range(2):
        call("keys", "create", "--name", "twin")
    done = call("keys", "delete", "twin")
    assert done.exit_code == 2
    assert "names 2 keys" in done.err
    assert len(listed(call)) == 2


def test_the_list_for_people(call: Call) -> None:
    done = call("keys", "list")
    assert done.out == "There are no keys yet. To make one: nestling keys create --name NAME\n"
    call("keys", "create", "--name", "laptop", "--limit", "5")
    header, row = call("keys", "list").out.splitlines()
    assert header.split("  ")[0] == "PREFIX"
    assert re.fullmatch(r"\w{8}  laptop  api   enabled  5      \d{4}-\d\d-\d\d \d\d:\d\d  -", row)


def test_help_is_shown_alone(call: Call) -> None:
    done = call("keys")
    assert done.exit_code == 2
    assert all(f"\n  {name} " in done.out for name in ("create", "list", "disable", "delete"))


def test_a_key_that_can_be_neither_shown_nor_deleted_is_named(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of both is full."""
    from nestling.accounts.api_keys import KeyStore
    from nestling.cli.streams import OutputError

    async def delete(*_: object) -> None:
        raise StoreError("accounts database: cannot write: database or disk is full")

    def print_text(_: str) -> None:
        raise OutputError(OSError(28, "No space left on device"))

    with monkeypatch.context() as patched:
        patched.setattr(KeyStore, "delete", delete)
        patched.setattr("nestling.cli.keys.print_text", print_text)
        done = call("keys", "create", "--name", "x")
    assert done.exit_code == 1
    assert f"delete the key {listed(call)[0]['prefix']}, which nobody has seen" in done.err


@pytest.mark.parametrize("is_database", [False, True])
def test_trouble_with_the_database_is_one_line_without_a_manual(
    call: Call, data_dir: Path, is_database: bool
) -> None:
    if is_database:
        call("keys", "create", "--name", "x")
        with sqlite3.connect(data_dir / DATABASE_FILE_NAME) as connection:
            connection.execute("DROP TABLE api_key")
        connection.close()
    else:
        data_dir.mkdir()
        (data_dir / DATABASE_FILE_NAME).write_text("no database" * 1000)
    done = call("keys", "list")
    assert (done.exit_code, done.out) == (1, "")
    assert ("no such table" if is_database else "file is not a database") in done.err
    assert done.err.count("\n") == 1
    assert "http" not in done.err
    assert "SQL:" not in done.err


def test_a_data_directory_that_cannot_be(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NESTLING_DATA_DIR")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    done = call("keys", "list")
    assert done.exit_code == 2
    assert done.err == "nestling: data_dir: expected a folder, but /dev/null is a file\n"
