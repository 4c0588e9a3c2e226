"""Writes an error: OpenAI's nested `error`, and the hosted API's flat fields beside it."""

from datetime import UTC, datetime

import msgspec

from nestling.api.answers import Answer, Time
from nestling.server.answers import time_text
from nestling.server.errors import HttpError


class ErrorDetail(Answer):
    """OpenAI's part of an error."""

    message: str
    type: str
    param: str | None
    code: str


class Error(Answer):
    """The body of a refused or failed request."""

    error: ErrorDetail
    message: str
    path: str
    requestId: str  # noqa: N815 - the hosted API's spelling
    statusCode: int  # noqa: N815
    timestamp: Time


class ErrorFrame(Answer):
    """The last event of a stream that failed."""

    error: ErrorDetail


def error_body(error: HttpError, *, request_id: str, path: str) -> bytes:
    """Return the JSON of a refused or failed request."""
    timestamp = time_text(datetime.now(UTC))
    detail = _detail(error)
    return msgspec.json.encode(
        Error(detail, error.message, path, request_id, error.status, timestamp)
    )


def error_frame(error: HttpError) -> bytes:
    """Return the SSE frame that ends a stream whose status has gone out already."""
    return b"data: " + msgspec.json.encode(ErrorFrame(_detail(error))) + b"\n\n"


def _detail(error: HttpError) -> ErrorDetail:
    return ErrorDetail(error.message, error.type, error.param, error.code)
