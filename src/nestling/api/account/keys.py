"""/v1/key and /v1/keys: the keys as the hosted API shows them.

Management keys make, list, change and delete inference keys; themselves they are managed by the
command line only, and are unknown here.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling.accounts.accounts import Accounts
from nestling.accounts.key_records import SCOPES, ApiKey, Retention
from nestling.accounts.money import usd
from nestling.api.answers import Amount, Answer, Time
from nestling.api.auth import Access, Gate, route
from nestling.api.operations import Endpoint, Operation
from nestling.api.requests.json_body import parse_json_object
from nestling.api.requests.keys import (
    key_changes_schema,
    new_key_schema,
    read_key_changes,
    read_new_key,
)
from nestling.errors import NotFoundError, shown
from nestling.server.answers import send_body, time_text
from nestling.server.request_body import read_body, read_json_body
from nestling.settings import Settings

ScopeName = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(SCOPES)})]


class Limit(Answer):
    """Bounds what a key may spend in a period."""

    retention: Retention
    threshold: Amount


class Key(Answer):
    """A key as it is shown: never its text."""

    name: str | None
    disabled: bool
    prefix: Annotated[str, msgspec.Meta(min_length=8, max_length=8)]
    scopes: list[ScopeName] | None
    limit: Limit | None
    expires_at: Time | None
    created_at: Time
    updated_at: Time
    monthly_usage: Amount


class NewKey(Key):
    """A key that was made just now, with its text, which is shown this once."""

    key: str


class OneKey(Answer):
    """The body that shows a key."""

    data: Key


class Keys(Answer):
    """The body that lists keys."""

    data: list[Key]


class MadeKey(Answer):
    """The body that tells a new key."""

    data: NewKey


class Deleted(Answer):
    """Which key is gone."""

    prefix: str
    deleted: Annotated[bool, msgspec.Meta(extra_json_schema={"const": True})]


class DeletedKey(Answer):
    """The body that confirms that a key is gone."""

    data: Deleted


class KeysEndpoint:
    """The handlers; one instance for the whole app."""

    def __init__(self, accounts: Accounts, settings: Settings) -> None:
        self._accounts = accounts
        self._settings = settings

    def routes(self, gate: Gate) -> Sequence[Route]:
        """Return the routes of the keys."""
        by_prefix, written = (404,), (404, 413, 415)
        change = Endpoint(
            self.change, Operation("Change a key", OneKey, body=key_changes_schema, errors=written)
        )
        create = Operation(
            "Make a key",
            MadeKey,
            body=new_key_schema,
            needs_body=False,
            errors=written,
            makes=("GET", "PATCH", "PUT", "DELETE"),
        )
        mine = {"GET": Endpoint(self.mine, Operation("Show the key that asks", OneKey))}
        all_keys = {
            "GET": Endpoint(self.list, Operation("List keys", Keys)),
            "POST": Endpoint(self.create, create),
        }
        one_key = {
            "GET": Endpoint(self.one, Operation("Show a key", OneKey, errors=by_prefix)),
            "PATCH": change,
            "PUT": change,
            "DELETE": Endpoint(
                self.delete, Operation("Delete a key", DeletedKey, errors=by_prefix)
            ),
        }
        return [
            route("/v1/key", mine, Access.ANY_KEY, gate),
            route("/v1/keys", all_keys, Access.MANAGEMENT, gate),
            route("/v1/keys/{prefix}", one_key, Access.MANAGEMENT, gate),
        ]

    async def mine(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v1/key: the key that asks."""
        await self._send_key(scope["state"]["api_key"], send)

    async def list(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v1/keys: all inference keys, oldest first."""
        keys = [key for key in await self._accounts.keys.list() if key.kind == "api"]
        spent = await self._accounts.usage.monthly(key.key_id for key in keys)
        await _send(send, Keys([shown_key(key, spent[key.key_id]) for key in keys]))

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /v1/keys: make one; the only answer that ever holds `key`."""
        new = read_new_key(await self._read(scope, receive))
        key, secret = await self._accounts.keys.create(new)
        made = NewKey(**msgspec.structs.asdict(shown_key(key, 0)), key=secret)
        await _send(send, MadeKey(made))

    async def one(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v1/keys/{prefix}."""
        await self._send_key(await self._find(scope), send)

    async def change(self, scope: Scope, receive: Receive, send: Send) -> None:
        """PATCH and PUT /v1/keys/{prefix}: change what is given."""
        key = await self._find(scope)
        changes = read_key_changes(await self._read(scope, receive))
        await self._send_key(await self._accounts.keys.update(key.prefix, **changes), send)

    async def delete(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """DELETE /v1/keys/{prefix}."""
        key = await self._find(scope)
        await self._accounts.keys.delete(key.key_id)
        await _send(send, DeletedKey(Deleted(key.prefix, True)))

    async def _find(self, scope: Scope) -> ApiKey:
        prefix = scope["path_params"]["prefix"]
        try:
            key = await self._accounts.keys.by_prefix(prefix)
        except NotFoundError:
            key = None
        if key is None or key.kind != "api":
            raise NotFoundError(f"There is no API key with the prefix '{shown(prefix)}'.")
        return key

    async def _read(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """Return the body's object; no body at all is an empty one."""
        if "content-type" in Headers(scope=scope):
            body = await read_json_body(scope, receive, self._settings)
            return parse_json_object(body) if body else {}
        return parse_json_object(await read_body(scope, receive, self._settings) or b"{}")

    async def _send_key(self, key: ApiKey, send: Send) -> None:
        spent = await self._accounts.usage.monthly([key.key_id])
        await _send(send, OneKey(shown_key(key, spent[key.key_id])))


def shown_key(key: ApiKey, monthly_nano_usd: int) -> Key:
    """Return a key as it is shown."""
    limit = key.limit
    return Key(
        name=key.name,
        disabled=key.disabled,
        prefix=key.prefix,
        scopes=None if key.scopes is None else list(key.scopes),
        limit=None if limit is None else Limit(limit.retention, usd(limit.threshold_nano_usd)),
        expires_at=None if key.expires_at is None else time_text(key.expires_at),
        created_at=time_text(key.created_at),
        updated_at=time_text(key.updated_at),
        monthly_usage=usd(monthly_nano_usd),
    )


async def _send(send: Send, body: Answer) -> None:
    await send_body(send, 200, msgspec.json.encode(body))
