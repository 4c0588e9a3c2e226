"""uvicorn's HTTP/1.1 connection with the limits it lacks, one instance a connection.

Added: a deadline and a size for the request's head, a last deadline for its body (the friendly one,
with an answer, is in `request_body.py`), our error body for what the parser refuses, and news of a
lost connection to every request on it, pipelined ones included.
"""

import asyncio
import uuid
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from nestling.api.errors import error_body, http_error
from nestling.log import get_logger
from nestling.settings import Settings

BODY_LINGER_S = 5.0
"""Beyond `body_timeout_s`: time for a sender to read its 408 or 413."""
REFUSAL_LINGER_S = 1.0
"""How long a refused sender may go on before its connection is closed."""

_log = get_logger("api")


class GuardedProtocol(HttpToolsProtocol):
    """See the module. `settings` is set on a subclass by `protocol_class`."""

    settings: Settings

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first request's head."""
        super().connection_made(transport)
        self._num_head_bytes = 0
        self._is_in_head = True
        self._is_refused = False
        self._cycles: list[RequestResponseCycle] = []
        self._deadline = self.loop.call_later(self.settings.header_timeout_s, self._on_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request on this connection; uvicorn tells the newest only."""
        self._deadline.cancel()
        self._disconnect_cycles()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of heads and pass them on; after a refusal, read them to nowhere."""
        if self._is_refused:
            return
        if self._is_in_head:
            self._num_head_bytes += len(data)
            if self._num_head_bytes > self.settings.max_header_bytes + len(data):
                self._refuse(431, "The head of the request is too large.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Restart the clock: a request begins on a kept connection."""
        super().on_message_begin()
        self._is_in_head = True
        self._num_head_bytes = 0
        self._restart(self.settings.header_timeout_s, self._on_slow_head)

    def on_headers_complete(self) -> None:
        """Switch to the body's clock."""
        self._is_in_head = False
        self._restart(self.settings.body_timeout_s + BODY_LINGER_S, self._on_slow_body)
        super().on_headers_complete()
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        self._cycles.append(self.cycle)

    def on_message_complete(self) -> None:
        """Stop the clock: the request is whole."""
        self._deadline.cancel()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer in our form to what is no HTTP."""
        self._refuse(400, msg)

    def _disconnect_cycles(self) -> None:
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _restart(self, seconds: float, handler: Any) -> None:
        self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, handler)

    def _on_slow_head(self) -> None:
        self._refuse(408, "The head of the request did not arrive in time.")

    def _on_slow_body(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer a connection in place of its requests, and close it soon.

        Closing at once, with bytes unread, would reset the connection and lose the answer.
        """
        if self.transport.is_closing() or self._is_refused:
            return
        self._is_refused = True
        self._deadline.cancel()
        _log.info("connection refused", status=status, reason=message)
        is_mid_answer = any(c.response_started and not c.response_complete for c in self._cycles)
        self._disconnect_cycles()
        if is_mid_answer:
            self.transport.close()
            return
        self.transport.write(_refusal(status, message))
        self.transport.write_eof()
        self._deadline = self.loop.call_later(REFUSAL_LINGER_S, self.transport.close)


def protocol_class(settings: Settings) -> type[GuardedProtocol]:
    """Return the class to hand to uvicorn, bound to these settings."""
    return type("BoundProtocol", (GuardedProtocol,), {"settings": settings})


def _refusal(status: int, message: str) -> bytes:
    request_id = str(uuid.uuid4())
    body = error_body(http_error(HTTPException(status, message)), request_id=request_id, path="")
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
        f"x-request-id: {request_id}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
