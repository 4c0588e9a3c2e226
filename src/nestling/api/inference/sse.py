"""The frames of one streamed reply on their way out, and when its head may go.

Errors that come within a moment are still a real status; a comment goes out whenever the frames
pause for long, so that proxies keep the connection.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from starlette.types import Send

from nestling.chat.request import ChatDelta, PreparedGeneration
from nestling.settings import Settings

REFUSAL_WINDOW_S = 0.1
"""How long the head of a stream waits for the first delta or a refusal of the engine."""
KEEP_ALIVE_COMMENT = b": keep-alive\n"
"""One newline: a comment-only block, ended by an empty line, crashes some clients."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]


async def with_early_refusal(
    prepared: PreparedGeneration,
) -> AsyncGenerator[ChatDelta | None, None]:
    """Yield None as soon as the head may go out, then the deltas.

    That is when the first delta is there or `REFUSAL_WINDOW_S` has passed; an error within the
    window is raised instead.
    """
    async with aclosing(prepared.stream()) as deltas:
        first = asyncio.ensure_future(anext(deltas, None))
        try:
            await asyncio.wait({first}, timeout=REFUSAL_WINDOW_S)
            if first.done():
                first.result()
            yield None
            delta = await first
        finally:
            first.cancel()
            await asyncio.wait({first})
        if delta is not None:
            yield delta
            async for delta in deltas:
                yield delta


class SseStream:
    """The body of one streamed reply."""

    def __init__(self, send: Send, settings: Settings) -> None:
        self.is_open = False
        self._send = send
        self._status = settings.success_status
        self._interval_s = settings.keep_alive_interval_s
        self._last_sent_at = 0.0
        self._keep_alive: asyncio.Task[None] | None = None

    async def open(self, frames: bytes) -> None:
        """Send the head and the first frames."""
        self.is_open = True
        start = {"type": "http.response.start", "status": self._status, "headers": [*_HEADERS]}
        await self._send(start)
        await self.send(frames)
        self._keep_alive = asyncio.create_task(self._keep_alive_loop())

    async def send(self, frames: bytes) -> None:
        """Send whole frames; waits while the client reads too slowly."""
        await self._send({"type": "http.response.body", "body": frames, "more_body": True})
        self._last_sent_at = time.monotonic()

    async def end(self, frames: bytes) -> None:
        """Send the last frames and close the body."""
        await self._send({"type": "http.response.body", "body": frames, "more_body": False})

    async def stop_keep_alive(self) -> None:
        """Send no more comments."""
        if self._keep_alive is not None:
            self._keep_alive.cancel()
            with suppress(asyncio.CancelledError):
                await self._keep_alive

    async def _keep_alive_loop(self) -> None:
        while True:
            silence_s = time.monotonic() - self._last_sent_at
            if silence_s >= self._interval_s:
                await self.send(KEEP_ALIVE_COMMENT)
            else:
                await asyncio.sleep(self._interval_s - silence_s)
