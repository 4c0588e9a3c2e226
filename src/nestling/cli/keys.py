"""`nestling keys`: make, list, disable, enable and delete API keys; works while a server runs."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer

from nestling.accounts.api_keys import ApiKey, KeyStore
from nestling.cli.options import AsJson, DataDir
from nestling.cli.output import print_json, print_table
from nestling.settings import load_settings

app = typer.Typer(
    help="API keys: make, list, disable, enable, delete.",
    no_args_is_help=True,
    add_completion=False,
)

KeyName = Annotated[
    str, typer.Argument(metavar="KEY", help="A key's prefix, or its name if unique.")
]
T = TypeVar("T")


@app.command()
def create(
    name: Annotated[str, typer.Option("--name", "-n", help="What the key is for.")],
    expires_days: Annotated[
        int | None, typer.Option("--expires-days", min=1, help="Days until the key expires.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, and nothing else. It is shown only this once."""
    expires_at = datetime.now(UTC) + timedelta(days=expires_days) if expires_days else None
    key, secret = _with_store(data_dir, lambda store: store.create(name, expires_at))
    if as_json:
        print_json(_describe(key) | {"key": secret})
    else:
        typer.echo(secret)


@app.command("list")
def list_keys(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the keys, oldest first, without their secrets."""
    keys = _with_store(data_dir, lambda store: store.list())
    rows = [_describe(key) for key in keys]
    if as_json:
        print_json(rows)
    elif not rows:
        typer.echo("No keys yet. Make one: nestling keys create --name NAME")
    else:
        columns = ("prefix", "name", "state", "created_at", "last_used_at", "expires_at")
        print_table(
            [column.removesuffix("_at").replace("_", " ") for column in columns],
            [[row[column] for column in columns] for row in rows],
        )


@app.command()
def disable(key: KeyName, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Refuse a key from its next request on; `enable` takes that back."""
    _report(_with_store(data_dir, lambda store: store.disable(key)), "disabled", as_json)


@app.command()
def enable(key: KeyName, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Accept a disabled key again."""
    _report(_with_store(data_dir, lambda store: store.enable(key)), "enabled", as_json)


@app.command()
def delete(key: KeyName, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Delete a key for good."""
    _report(_with_store(data_dir, lambda store: store.delete(key)), "deleted", as_json)


def _report(key: ApiKey, done: str, as_json: bool) -> None:
    if as_json:
        print_json(_describe(key) | {"done": done})
    else:
        typer.echo(f"{done} {key.prefix} ({key.name})")


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
        "state": "disabled" if key.disabled else "expired" if is_expired else "enabled",
        "created_at": moment(key.created_at),
        "last_used_at": moment(key.last_used_at),
        "expires_at": moment(key.expires_at),
    }
