"""Sends whole JSON answers, those with a tag too; how times stand in them."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.types import Scope, Send

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


async def send_tagged(scope: Scope, send: Send, body: bytes) -> None:
    """Send a JSON answer with its tag, or 304 and nothing to those who have it."""
    tag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    if not _has(Headers(scope=scope).get("if-none-match"), tag):
        await send_body(send, 200, body, headers)
        return
    raw = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 304, "headers": raw})
    await send({"type": "http.response.body", "body": b""})


def _has(sent: str | None, tag: str) -> bool:
    """Tell whether an If-None-Match header names the tag; weak and strong ones are equal here."""
    if sent is None:
        return False
    tags = [item.strip().removeprefix("W/") for item in sent.split(",")]
    return "*" in tags or tag.removeprefix("W/") in tags
