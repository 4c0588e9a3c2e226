"""`nestling keys`: make, list, disable, enable and delete API keys; works while a server runs."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import typer

from nestling.accounts.api_keys import KeyStore
from nestling.accounts.key_records import SCOPES, ApiKey, NewKey, Retention, SpendLimit
from nestling.accounts.money import NANO_USD, usd
from nestling.cli.options import AsJson, DataDir, command_line, show_help_alone
from nestling.cli.output import print_json, print_table, print_text
from nestling.cli.streams import OutputError
from nestling.errors import InvalidRequestError, NestlingError, StoreError
from nestling.plain_text import escape_line
from nestling.settings import load_settings

app = command_line()

KeyName = Annotated[
    str, typer.Argument(metavar="KEY", help="A key's prefix, or its name if unique.")
]
T = TypeVar("T")
_PERIODS: dict[str, Retention] = {
    "": "no_reset",
    "/day": "day",
    "/week": "week",
    "/month": "month",
}


@app.callback(invoke_without_command=True)
def keys(ctx: typer.Context) -> None:
    """Make, list, disable, enable and delete API keys."""
    show_help_alone(ctx)


@app.command()
def create(
    name: Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="What the key is for.")],
    expires_days: Annotated[
        int | None,
        typer.Option(
            "--expires-days",
            metavar="DAYS",
            min=1,
            max=36_500,
            help="Days until the key expires. Default: it never expires.",
        ),
    ] = None,
    management: Annotated[
        bool, typer.Option("--management", help="Make a key that manages keys, for /v1/keys only.")
    ] = False,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="SCOPE", help="Allow only this. May be repeated."),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            "--limit",
            metavar="USD[/PERIOD]",
            help="Most that may be spent, such as 5 or 0.50/day. Periods: day, week, month.",
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it.

    The key is shown only this once, and nothing else is printed.
    """
    if management and (scope or limit):
        raise InvalidRequestError(
            "--management: expected neither --scope nor --limit, as a management key does no "
            "inference"
        )
    new = NewKey(
        name=name,
        kind="management" if management else "api",
        scopes=_read_scopes(scope),
        limit=None if limit is None else _read_limit(limit),
        expires_at=datetime.now(UTC) + timedelta(days=expires_days) if expires_days else None,
    )
    _with_store(data_dir, lambda store: _create(store, new, as_json))


async def _create(store: KeyStore, new: NewKey, as_json: bool) -> None:
    """Make a key and show it; a key that cannot be shown is deleted again."""
    key, secret = await store.create(new)
    try:
        if as_json:
            print_json(_describe(key) | {"key": secret})
        else:
            print_text(secret)
        sys.stdout.flush()
    except OutputError as error:
        try:
            await store.delete(key.key_id)
        except StoreError as reason:
            left = f"delete the key {key.prefix}, which nobody has seen ({reason})"
            raise NestlingError(f"{error.message}; {left}") from None
        raise NestlingError(f"{error.message}; no key was made") from None


@app.command("list")
def list_keys(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the keys, oldest first, without their secrets."""
    keys = _with_store(data_dir, lambda store: store.list())
    rows = [_describe(key) for key in keys]
    if as_json:
        print_json(rows)
    elif not rows:
        print_text("There are no keys yet. To make one: nestling keys create --name NAME")
    else:
        header = ("prefix", "name", "kind", "state", "limit", "created (utc)", "last used (utc)")
        print_table(header, [_list_row(row) for row in rows])


@app.command()
def disable(key: KeyName, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Refuse a key from its next request on, until it is enabled."""
    _report(_with_store(data_dir, lambda store: store.disable(key)), "disabled", as_json)


@app.command()
def enable(key: KeyName, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Accept a disabled key again."""
    _report(_with_store(data_dir, lambda store: store.enable(key)), "enabled", as_json)


@app.command()
def delete(key: KeyName, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Delete a key for good."""
    _report(_with_store(data_dir, lambda store: store.delete(key)), "deleted", as_json)


def _read_scopes(scopes: list[str] | None) -> tuple[str, ...] | None:
    for scope in scopes or ():
        if scope not in SCOPES:
            wanted = ", ".join(SCOPES)
            raise InvalidRequestError(f"--scope: expected one of {wanted}, but got {scope[:40]!a}")
    return tuple(dict.fromkeys(scopes)) if scopes else None


def _read_limit(text: str) -> SpendLimit:
    """Return the limit in "USD" or "USD/PERIOD"."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(/.*)?", text)
    retention = _PERIODS.get(match[2] or "") if match else None
    if match is None or retention is None:
        periods = "/day, /week, /month"
        message = f"--limit: expected dollars, alone or with {periods}, but got {text[:40]!a}"
        raise InvalidRequestError(message)
    return SpendLimit(retention, int(Decimal(match[1]) * NANO_USD))


def _report(key: ApiKey, done: str, as_json: bool) -> None:
    if as_json:
        print_json(_describe(key) | {"done": done})
    else:
        print_text(f"{done} {key.prefix} ({escape_line(key.name or 'no name')})")


def _with_store(data_dir: Any, work: Callable[[KeyStore], Awaitable[T]]) -> T:
    async def run() -> T:
        store = await KeyStore.open(load_settings({"data_dir": data_dir}).data_dir)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def _describe(key: ApiKey) -> dict[str, Any]:
    def moment(value: datetime | None) -> str | None:
        return value.isoformat(sep=" ", timespec="seconds") if value else None

    is_expired = key.is_expired(datetime.now(UTC))
    return {
        "prefix": key.prefix,
        "name": key.name,
        "kind": key.kind,
        "scopes": None if key.scopes is None else list(key.scopes),
        "limit": key.limit and _limit_text(key.limit),
        "state": "disabled" if key.disabled else "expired" if is_expired else "enabled",
        "created_at": moment(key.created_at),
        "last_used_at": moment(key.last_used_at),
        "expires_at": moment(key.expires_at),
    }


def _list_row(key: dict[str, Any]) -> list[Any]:
    """Return the cells of a key in the list for people, its times to the minute."""
    times = [key[name] and key[name][:16] for name in ("created_at", "last_used_at")]
    return [*(key[name] for name in ("prefix", "name", "kind", "state", "limit")), *times]


def _limit_text(limit: SpendLimit) -> str:
    """Return a limit as `--limit` takes it."""
    amount = f"{usd(limit.threshold_nano_usd):.9f}".rstrip("0").rstrip(".")
    return amount if limit.retention == "no_reset" else f"{amount}/{limit.retention}"
