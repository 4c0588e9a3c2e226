"""Sends whole JSON answers; how times stand in them."""

from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.types import Send

NO_STORE = {"cache-control": "no-store"}


def time_text(moment: datetime) -> str:
    """Return a time as the API writes it: UTC, milliseconds, Z."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


async def send_body(
    send: Send, status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """Send a whole JSON answer, which nobody keeps unless `headers` allow it."""
    given = {**json_headers(body), **NO_STORE, **(headers or {})}
    raw = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def json_headers(body: bytes) -> dict[str, str]:
    """Return the headers that say what a body is."""
    return {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-content-type-options": "nosniff",
    }
