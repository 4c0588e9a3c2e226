"""Who may use which route. Every route is built by `route` here, which demands an access class.

Authentication happens before the body is read, from `scope` alone, and fails closed: whatever goes
wrong in it ends the request.
"""

import re
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Protocol

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling.accounts.api_keys import ApiKey
from nestling.errors import AuthenticationError

MAX_KEY_LENGTH = 256
_KEY_TEXT = re.compile(rb"[0-9A-Za-z_-]+")
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Access(Enum):
    """What a caller must show."""

    PUBLIC = "public"
    API_KEY = "api_key"


class Authenticator(Protocol):
    """The part of `KeyStore` that serves requests."""

    async def authenticate(self, secret: str) -> ApiKey:
        """Return the key that `secret` is the text of; raises `AuthenticationError`."""
        ...


class GuardedEndpoint:
    """An ASGI endpoint behind its access class; the key lands in `scope["state"]["api_key"]`."""

    def __init__(self, handler: Handler, access: Access, keys: Authenticator) -> None:
        self.handler = handler
        self.access = access
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate, then serve."""
        if self.access is not Access.PUBLIC:
            secret = bearer_secret(scope["headers"])
            scope["state"]["api_key"] = await self._keys.authenticate(secret)
        await self.handler(scope, receive, send)


def route(path: str, method: str, handler: Handler, access: Access, keys: Authenticator) -> Route:
    """Return the only kind of route this server has."""
    return Route(path, GuardedEndpoint(handler, access, keys), methods=[method], name=path)


def bearer_secret(headers: list[tuple[bytes, bytes]]) -> str:
    """Return the bearer token of exactly one Authorization header."""
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise AuthenticationError(
            "This request requires a valid API key. Send it as 'Authorization: Bearer <key>'; "
            "`nestling keys create` makes one."
        )
    if len(values) > 1:
        raise AuthenticationError("Expected one Authorization header, but got several.")
    scheme, _, secret = values[0].partition(b" ")
    secret = secret.strip(b" ")
    if scheme.lower() != b"bearer":
        raise AuthenticationError("Expected the Authorization scheme 'Bearer', but got another.")
    if len(secret) > MAX_KEY_LENGTH or not _KEY_TEXT.fullmatch(secret):
        raise AuthenticationError("Incorrect API key provided.")
    return secret.decode("ascii")
