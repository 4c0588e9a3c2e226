"""Decides who may use which route. `route` here builds every one, and demands an access class.

Authentication happens before the body is read, from `scope` alone, and fails closed: whatever goes
wrong in it ends the request.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol
from urllib.parse import unquote_to_bytes

from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling.accounts.key_records import ApiKey, require_scope
from nestling.api.operations import Endpoint
from nestling.errors import AuthenticationError, PermissionDeniedError
from nestling.server.context import request_context

MAX_KEY_LENGTH = 256
INFERENCE_SCOPE = "model:chat"
"""Of all inference here: chat and text completions."""
_KEY_TEXT = re.compile(rb"[0-9A-Za-z_-]+")


class Access(Enum):
    """Tells what a caller must show."""

    PUBLIC = "public"
    INFERENCE = "inference"
    """A key for inference whose scopes allow chat."""
    ANY_KEY = "any_key"
    MANAGEMENT = "management"
    """A management key."""
    OPERATOR = "operator"
    """Nothing while the server listens on loopback only; a management key elsewhere."""


class Authenticator(Protocol):
    """The part of `KeyStore` that serves requests."""

    async def authenticate(self, secret: str) -> ApiKey:
        """Return the key that `secret` is the text of; raises `AuthenticationError`."""
        ...


@dataclass(frozen=True, slots=True)
class Gate:
    """Decides who passes; one for the whole app."""

    keys: Authenticator
    is_local: bool
    """The server listens on loopback only."""

    async def admit(self, scope: Scope, access: Access) -> None:
        """Put the caller's key into `scope["state"]["api_key"]`, or raise the refusal."""
        if access is Access.PUBLIC or (access is Access.OPERATOR and self.is_local):
            return
        key = await self.keys.authenticate(bearer_secret(scope["headers"]))
        scope["state"]["api_key"] = key
        if access is Access.INFERENCE:
            require_scope(key, INFERENCE_SCOPE)
        elif access is not Access.ANY_KEY and key.kind != "management":
            message = "This needs a management key; `nestling keys create --management` makes one."
            raise PermissionDeniedError(message, code="management_key_required")


class GuardedEndpoint:
    """An ASGI endpoint behind its access class; one handler and its description a method."""

    def __init__(
        self, path: str, endpoints: Mapping[str, Endpoint], access: Access, gate: Gate
    ) -> None:
        self.path = path
        self.handlers = {method: endpoint.handler for method, endpoint in endpoints.items()}
        self.operations = {method: endpoint.operation for method, endpoint in endpoints.items()}
        self.access = access
        self._gate = gate
        self._own_parts = path.partition("{")[0].encode("ascii").rstrip(b"/").split(b"/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate, then serve. HEAD is a GET whose body the server does not send."""
        if not self._is_spelled_out(scope["raw_path"]):
            raise HTTPException(404)
        request_context(scope).route = self.path
        await self._gate.admit(scope, self.access)
        method = scope["method"] if scope["method"] in self.handlers else "GET"
        await self.handlers[method](scope, receive, send)

    def _is_spelled_out(self, raw_path: bytes) -> bool:
        """Tell whether the route's own slashes came as such: a proxy takes %2F for none."""
        if b"%" not in raw_path:
            return True
        parts = raw_path.split(b"/")[: len(self._own_parts)]
        return [unquote_to_bytes(part) for part in parts] == self._own_parts


def route(path: str, endpoints: Mapping[str, Endpoint], access: Access, gate: Gate) -> Route:
    """Return the only kind of route this server has; `endpoints` are by method."""
    endpoint = GuardedEndpoint(path, endpoints, access, gate)
    return Route(path, endpoint, methods=list(endpoints), name=path)


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
        raise AuthenticationError(
            "Incorrect API key provided. This request requires a valid API key."
        )
    return secret.decode("ascii")
