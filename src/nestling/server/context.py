"""The outermost layer: gives every request its id, every answer its headers, every error its body.

Pure ASGI. Nothing raised below gets past it, so the framework's own 500 page is never seen; a reply
that fails half-way is logged here and its connection closed by the server.
"""

import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nestling.log import get_logger
from nestling.server.answers import send_body
from nestling.server.errors import ErrorRenderer, HttpError, http_error
from nestling.server.lifecycle import ClientDisconnectedError
from nestling.server.metrics import HttpMetrics

_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
REFUSED = "refused"
"""In `scope["state"]`: the status that the server has sent in place of the app's answer."""
_PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""Routes that watchers ask every few seconds: a good answer is logged at debug only."""
_log = get_logger("api")


@dataclass(slots=True)
class RequestContext:
    """Tells what is known of a request while it runs; found in `scope["state"]["context"]`."""

    render_error: ErrorRenderer
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    inference_id: str | None = None
    client_request_id: str | None = None
    """The caller's own, if it is one that may be sent back."""
    started_at: float = field(default_factory=time.perf_counter)
    status: int | None = None
    """Of the answer, once its head has gone out."""
    route: str = "none"
    """The path template that matched."""
    headers: dict[str, str] = field(default_factory=dict)
    """More headers for the answer, whatever it will be."""

    def elapsed_ms(self) -> float:
        """Milliseconds since the request's head was there."""
        return (time.perf_counter() - self.started_at) * 1000

    def answer_headers(self) -> dict[str, str]:
        """Return the headers that every answer has, whatever it is, and those for this one."""
        names = {
            "x-request-id": self.request_id,
            "x-inference-id": self.inference_id or self.request_id,
            "openai-processing-ms": str(round(self.elapsed_ms())),
            "openai-version": "2020-10-01",
        }
        if self.client_request_id is not None:
            names["x-client-request-id"] = self.client_request_id
        return names | self.headers


def request_context(scope: Scope) -> RequestContext:
    """Return the context of a request."""
    context: RequestContext = scope["state"]["context"]
    return context


async def send_error(scope: Scope, send: Send, error: HttpError) -> None:
    """Send an error as this server writes it, with the request's id and path."""
    context = request_context(scope)
    body = context.render_error(error, request_id=context.request_id, path=scope["path"])
    await send_body(send, error.status, body, dict(error.headers))


class RequestContextMiddleware:
    """See the module. One log line a request: no bodies, no query, no headers."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, render_error: ErrorRenderer) -> None:
        self._app = app
        self._metrics = metrics
        self._render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request to its end, whatever that is."""
        if scope["type"] != "http":
            raise RuntimeError(f"expected an http scope, but got {scope['type']}")
        context = RequestContext(
            self._render_error, client_request_id=client_request_id(Headers(scope=scope))
        )
        scope.setdefault("state", {})["context"] = context

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                MutableHeaders(scope=message).update(context.answer_headers())
            await send(message)

        self._metrics.request_began()
        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnectedError:
            _log_request(scope, context, outcome="aborted")
            return
        except Exception as error:  # noqa: BLE001 - the boundary: everything becomes an answer
            await _answer(error, scope, send_with_headers, context)
        finally:
            context.status = scope["state"].get(REFUSED, context.status)
            seconds = context.elapsed_ms() / 1000
            self._metrics.request_ended(context.route, scope["method"], context.status, seconds)
        _log_request(scope, context, outcome="answered")


async def _answer(error: Exception, scope: Scope, send: Send, context: RequestContext) -> None:
    mapped = http_error(error)
    if mapped.status >= 500:
        _log.error(
            "request failed",
            request_id=context.request_id,
            status=mapped.status,
            code=mapped.code,
            exc_info=error,
        )
    if context.status is None:
        await send_error(scope, send, mapped)


def client_request_id(headers: Headers) -> str | None:
    """Return the caller's own id of a request, if it is one that may be sent back."""
    sent = headers.get("x-client-request-id", "")
    return sent if _CLIENT_REQUEST_ID.fullmatch(sent) else None


def _log_request(scope: Scope, context: RequestContext, *, outcome: str) -> None:
    details: dict[str, Any] = {
        "request_id": context.request_id,
        "method": scope["method"],
        "path": ascii(scope["path"][:200])[1:-1],
        "status": context.status,
        "duration_ms": round(context.elapsed_ms(), 1),
    }
    api_key = scope["state"].get("api_key")
    if api_key is not None:
        details["key_prefix"] = api_key.prefix
    is_quiet = context.route in _PROBES and context.status == 200
    (_log.debug if is_quiet else _log.info)(f"request {outcome}", **details)
