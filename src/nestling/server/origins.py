"""Which web pages may reach this server: the Host check and CORS.

The Host check keeps a page from reaching a loopback server under a name of its own (DNS rebinding).
CORS never allows credentials: a browser adds no key by itself, so an open origin list grants a page
nothing that its visitor has not typed into it.
"""

import ipaddress
import re
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nestling.settings import Settings

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_EXPOSED = (
    "x-request-id, x-inference-id, x-client-request-id, openai-processing-ms, openai-version, "
    "x-aimlapi-credits-used, x-aimlapi-usd-spent, etag, retry-after, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_PREFLIGHT_DEFAULT = b"authorization, content-type"
_PREFLIGHT_HEADERS = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    (b"access-control-max-age", b"600"),
)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address (brackets allowed) means this machine only."""
    name = plain_host(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def plain_host(host: str) -> str:
    """Return the one spelling of a host: no brackets, no last dot, lower case, short addresses."""
    name = host.strip("[]").removesuffix(".").lower()
    try:
        return ipaddress.ip_address(name).compressed
    except ValueError:
        return name


class HostMiddleware:
    """Refuses a Host header that is broken (400) or names another server (421).

    A server on loopback answers to loopback names and `allowed_hosts`; a server on other addresses
    to any name, unless `allowed_hosts` is set.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._allowed = frozenset(plain_host(host) for host in settings.allowed_hosts)
        self._checks_names = bool(self._allowed) or is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request if its Host is ours."""
        hosts = Headers(scope=scope).getlist("host")
        self._check(hosts, scope.get("http_version", "1.1"))
        await self._app(scope, receive, send)

    def _check(self, hosts: list[str], http_version: str) -> None:
        if not hosts and http_version == "1.0":
            return
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            raise HTTPException(400, "Expected exactly one well-formed Host header.")
        name = plain_host(match[1])
        if self._checks_names and name not in self._allowed and not is_loopback(name):
            message = f"This server does not answer for the host '{name[:100]}'; see allowed_hosts."
            raise HTTPException(421, message)


@dataclass(frozen=True, slots=True)
class CorsPolicy:
    """Which web pages may read which answers."""

    origins: frozenset[str]
    """Origins of pages; "*" is any."""
    closed_paths: frozenset[str] = frozenset()
    """Paths that no page may read, whatever its origin."""

    @property
    def is_any(self) -> bool:
        """Whether every origin is allowed."""
        return "*" in self.origins

    def headers(self, path: str, headers: Headers) -> dict[str, str]:
        """Return what lets the origin of a request read the answer; nothing if it may not."""
        origin = headers.get("origin")
        if origin is None or path in self.closed_paths or not {"*", origin} & self.origins:
            return {}
        return {
            "access-control-allow-origin": "*" if self.is_any else origin,
            "access-control-expose-headers": _EXPOSED,
        }


class CorsMiddleware:
    """Lets allowed origins read every answer and error of the paths that are open to them."""

    def __init__(self, app: ASGIApp, policy: CorsPolicy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, its answer marked for the browser."""
        if scope["path"] in self._policy.closed_paths:
            await self._app(scope, receive, send)
            return
        marks = self._policy.headers(scope["path"], Headers(scope=scope))

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                marked = MutableHeaders(scope=message)
                marked.update(marks)
                if not self._policy.is_any:
                    marked.add_vary_header("origin")
            await send(message)

        await self._app(scope, receive, send_marked)


class PreflightMiddleware:
    """Answers preflights without a key: every OPTIONS, but for paths that no page may read."""

    def __init__(self, app: ASGIApp, policy: CorsPolicy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if scope["method"] != "OPTIONS" or scope["path"] in self._policy.closed_paths:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = [(b"vary", b"access-control-request-headers"), *_PREFLIGHT_HEADERS]
        if self._policy.headers(scope["path"], headers):
            wanted = headers.get("access-control-request-headers")
            allowed = _PREFLIGHT_DEFAULT if wanted is None else wanted.encode("latin-1")
            answer.append((b"access-control-allow-headers", allowed))
        await send({"type": "http.response.start", "status": 204, "headers": answer})
        await send({"type": "http.response.body", "body": b""})
