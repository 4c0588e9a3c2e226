"""The one place where an error becomes an HTTP status, and what a client may read of it.

How it is written in a body is given to the server as an `ErrorRenderer`. Answers of 5xx say nothing
about the inside of the server; the log does, under the same request id.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from starlette.exceptions import HTTPException

from nestling.errors import (
    AuthenticationError,
    EngineError,
    EngineRestartedError,
    InvalidRequestError,
    NestlingError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    ServerShutdownError,
    StoreError,
    UsageUnavailableError,
)

RESTART_RETRY_S = 2
"""A new engine process has the embedded model ready within this time."""


@dataclass(frozen=True, slots=True)
class HttpError:
    """An error as a client sees it."""

    status: int
    message: str
    type: str
    code: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


class ErrorRenderer(Protocol):
    """Writes an error in the JSON that the clients of this server know."""

    def __call__(self, error: HttpError, *, request_id: str, path: str) -> bytes:
        """Return the body of a refused or failed request."""
        ...


_HTTP_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    414: "address_too_long",
    415: "unsupported_media_type",
    421: "misdirected_request",
    431: "headers_too_large",
}
"""Codes of refusals that are about HTTP itself."""

_HTTP_MESSAGES = {
    404: "There is nothing at this address; the chat endpoint is POST /v1/chat/completions.",
    405: "This address does not answer to this method; see the Allow header for those it does.",
}

_STATUSES: tuple[tuple[type[NestlingError], int, str], ...] = (
    (InvalidRequestError, 400, "invalid_request_error"),
    (AuthenticationError, 401, "invalid_request_error"),
    (PermissionDeniedError, 403, "invalid_request_error"),
    (NotFoundError, 404, "invalid_request_error"),
    (RateLimitError, 429, "rate_limit_error"),
    (OverloadedError, 503, "server_error"),
    (ServerShutdownError, 503, "engine_error"),
    (EngineRestartedError, 503, "engine_error"),
    (EngineError, 500, "engine_error"),
    (StoreError, 503, "server_error"),
)
"""Status and `type` by class, the most special first; what is not listed is a 500."""

_PUBLIC_MESSAGES: tuple[tuple[type[NestlingError], str], ...] = (
    (ServerShutdownError, "The server is shutting down. Try again later."),
    (EngineRestartedError, "The engine was restarted while it had this request. Try again."),
    (EngineError, "The engine could not finish this request."),
    (UsageUnavailableError, "Usage cannot be recorded right now. Try again later."),
    (StoreError, "The accounts store is not available. Try again later."),
)
"""What clients are told in place of messages that may speak of the server's inside."""

_INTERNAL = HttpError(500, "Internal server error.", "server_error", "internal_error")


def http_error(error: Exception) -> HttpError:
    """Map any exception; one that is neither ours nor Starlette's is an internal error."""
    if isinstance(error, HTTPException):
        return _from_http_exception(error)
    for cls, status, error_type in _STATUSES:
        if isinstance(error, cls):
            message = next((m for c, m in _PUBLIC_MESSAGES if isinstance(error, c)), error.message)
            headers = _extra_headers(error)
            return HttpError(status, message, error_type, error.code, error.param, headers)
    return _INTERNAL


def _from_http_exception(error: HTTPException) -> HttpError:
    status = error.status_code
    is_plain = error.detail == HTTPStatus(status).phrase
    message = _HTTP_MESSAGES.get(status, error.detail) if is_plain else error.detail
    headers = tuple((error.headers or {}).items())
    code = _HTTP_CODES.get(status, "http_error")
    error_type = "invalid_request_error" if status < 500 else "server_error"
    return HttpError(status, message, error_type, code, headers=headers)


def _extra_headers(error: NestlingError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, (OverloadedError, RateLimitError)):
        return (("retry-after", str(error.retry_after_s)),)
    if isinstance(error, (EngineRestartedError, ServerShutdownError, StoreError)):
        return (("retry-after", str(RESTART_RETRY_S)),)
    if isinstance(error, AuthenticationError):
        return (("www-authenticate", "Bearer"),)
    return ()
