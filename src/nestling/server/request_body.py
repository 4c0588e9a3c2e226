"""Reads a request's body within its limits of type, size and time. Nothing is decompressed."""

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope

from nestling.errors import shown
from nestling.server.lifecycle import ClientDisconnectedError
from nestling.settings import Settings


async def read_json_body(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """Return the body; raises `HTTPException` 408, 413 or 415, `ClientDisconnectedError`."""
    _check_type(Headers(scope=scope))
    return await read_body(scope, receive, settings)


async def read_body(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """Return a body of any type; raises `HTTPException` 408 or 413, `ClientDisconnectedError`."""
    _check_length(Headers(scope=scope), settings.max_body_bytes)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _read(receive, settings.max_body_bytes)
    except TimeoutError:
        message = f"The body did not arrive within {settings.body_timeout_s:g} s."
        raise HTTPException(408, message, headers={"connection": "close"}) from None


def _check_type(headers: Headers) -> None:
    encoding = ", ".join(headers.getlist("content-encoding")).strip().lower()
    if encoding not in {"", "identity"}:
        message = f"Invalid Content-Encoding: expected none, but got '{shown(encoding)}'."
        raise HTTPException(415, message)
    if len(headers.getlist("content-type")) > 1:
        raise HTTPException(415, "Expected one Content-Type header, but got several.")
    sent = headers.get("content-type")
    media_type, _, parameters = (sent or "").partition(";")
    if media_type.strip().lower() != "application/json":
        came = f"'{shown(sent)}'" if sent is not None else "none"
        message = f"Invalid Content-Type: expected application/json, but got {came}."
        raise HTTPException(415, message)
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in {"utf-8", "utf8", "us-ascii"}:
            message = f"Invalid charset: expected utf-8, but got '{shown(charset)}'."
            raise HTTPException(415, message)


def _check_length(headers: Headers, limit: int) -> None:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        raise HTTPException(400, "Invalid Content-Length: expected decimal digits.")
    if len(length) > 18 or int(length) > limit:
        raise _too_large(limit, f" but {shown(length)} were announced")


def _too_large(limit: int, what_came: str) -> HTTPException:
    message = f"The body is too large: expected at most {limit} bytes,{what_came}."
    return HTTPException(413, message, headers={"connection": "close"})


async def _read(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit, " but more came")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
