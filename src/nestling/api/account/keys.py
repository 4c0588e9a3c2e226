"""/v1/key and /v1/keys: the keys as the hosted API shows them.

Management keys make, list, change and delete inference keys; themselves they are managed by the
command line only, and are unknown here.
"""

from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from nestling.accounts.accounts import Accounts
from nestling.accounts.key_records import ApiKey, SpendLimit
from nestling.accounts.money import usd
from nestling.api.requests.json_body import parse_json_object
from nestling.api.requests.keys import read_key_changes, read_new_key
from nestling.errors import NotFoundError, shown
from nestling.server.answers import send_body, time_text
from nestling.server.request_body import read_body, read_json_body
from nestling.settings import Settings


class KeysEndpoint:
    """The handlers; one instance for the whole app."""

    def __init__(self, accounts: Accounts, settings: Settings) -> None:
        self._accounts = accounts
        self._settings = settings

    async def mine(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v1/key: the key that asks."""
        await self._send_key(scope["state"]["api_key"], send)

    async def list(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """GET /v1/keys: all inference keys, oldest first."""
        keys = [key for key in await self._accounts.keys.list() if key.kind == "api"]
        spent = await self._accounts.usage.monthly(key.key_id for key in keys)
        await _send(send, [key_body(key, spent[key.key_id]) for key in keys])

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /v1/keys: make one; the only answer that ever holds `key`."""
        new = read_new_key(await self._read(scope, receive))
        key, secret = await self._accounts.keys.create(new)
        await _send(send, {**key_body(key, 0), "key": secret})

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
        await _send(send, {"prefix": key.prefix, "deleted": True})

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
        await _send(send, key_body(key, spent[key.key_id]))


def key_body(key: ApiKey, monthly_nano_usd: int) -> dict[str, Any]:
    """Return a key as it is shown: never its text."""
    return {
        "name": key.name,
        "disabled": key.disabled,
        "prefix": key.prefix,
        "scopes": key.scopes,
        "limit": _limit_body(key.limit),
        "expires_at": None if key.expires_at is None else time_text(key.expires_at),
        "created_at": time_text(key.created_at),
        "updated_at": time_text(key.updated_at),
        "monthly_usage": usd(monthly_nano_usd),
    }


def _limit_body(limit: SpendLimit | None) -> dict[str, Any] | None:
    if limit is None:
        return None
    return {"retention": limit.retention, "threshold": usd(limit.threshold_nano_usd)}


async def _send(send: Send, data: Any) -> None:
    await send_body(send, 200, msgspec.json.encode({"data": data}))
