"""How an error is written: OpenAI's nested `error` and the hosted API's flat fields beside it."""

from datetime import UTC, datetime

import msgspec

from nestling.server.answers import time_text
from nestling.server.errors import HttpError


def error_body(error: HttpError, *, request_id: str, path: str) -> bytes:
    """Return the JSON of a refused or failed request."""
    return msgspec.json.encode(
        {
            "error": _nested(error),
            "message": error.message,
            "path": path,
            "requestId": request_id,
            "statusCode": error.status,
            "timestamp": time_text(datetime.now(UTC)),
        }
    )


def error_frame(error: HttpError) -> bytes:
    """Return the SSE frame that ends a stream whose status has gone out already."""
    return b"data: " + msgspec.json.encode({"error": _nested(error)}) + b"\n\n"


def _nested(error: HttpError) -> dict[str, str | None]:
    return {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
