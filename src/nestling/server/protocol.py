"""uvicorn's HTTP/1.1 connection with the limits it lacks, one instance a connection.

Added: a deadline and a size for the request's head, a last deadline for its body (the friendly one,
with an answer, is in `request_body.py`), one for a client that does not read its answer, our error
body for what the parser refuses, requests that offer an upgrade served without it, answers that
HTTP/1.0 clients understand, and news of a lost connection to every request on it, pipelined ones
included.
"""

import asyncio
import time
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from nestling.log import get_logger
from nestling.server.answers import NO_STORE, json_headers
from nestling.server.application import Application
from nestling.server.context import REFUSED, RequestContext, client_request_id
from nestling.server.errors import HttpError, http_error
from nestling.settings import Settings

BODY_LINGER_S = 5.0
"""Beyond `body_timeout_s`: time for a sender to read its 408 or 413."""
REFUSAL_LINGER_S = 1.0
"""How long a refused sender may go on before its connection is closed."""
MAX_URL_BYTES = 32768
_UPGRADE_HEADERS = frozenset({b"connection", b"http2-settings", b"upgrade"})

_log = get_logger("api")


class GuardedProtocol(HttpToolsProtocol):
    """See the module. What it is bound to is set on a subclass by `protocol_class`."""

    settings: Settings
    application: Application

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first request's head."""
        super().connection_made(transport)
        self._num_head_bytes = 0
        self._num_header_bytes = 0
        self._is_in_head = True
        self._is_refused = False
        self._is_upgrade = False
        self._unread: asyncio.TimerHandle | None = None
        self._cycles: list[RequestResponseCycle] = []
        self._is_between = True
        self._began_at = time.perf_counter()
        self._deadline = self.loop.call_later(self.settings.header_timeout_s, self._on_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request on this connection; uvicorn tells the newest only."""
        self._deadline.cancel()
        self._stop_unread_clock()
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
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Parse bytes; the parser takes those behind an offered upgrade for another protocol."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._is_upgrade and not self._is_refused:
                self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError:  # uvicorn reads the address in one of ours
            self._refuse(400, "Expected HTTP/1.1, but the address of the request cannot be read.")
        except httptools.HttpParserError as error:
            self._refuse(400, f"Expected HTTP/1.1, but the parser says: {error}.")

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request again as if it had offered none (HTTP/2 clients do, before a body)."""
        version = self.parser.get_http_version().encode("ascii")
        lines = [b" ".join([self.parser.get_method(), self.url, b"HTTP/" + version])]
        for name, value in self.headers:
            if name not in _UPGRADE_HEADERS:
                lines.append(name + b": " + value)
            elif name == b"connection" and b"close" in value.lower():
                lines.append(b"connection: close")
        self._is_upgrade = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._feed(b"\r\n".join([*lines, b"", b""]) + rest)

    def on_url(self, url: bytes) -> None:
        """Collect the address, up to a bound."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(414, f"The address is too long: expected at most {MAX_URL_BYTES} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header, up to a bound: a head may come in one piece, with a body behind it.

        Those that come behind a body in chunks are dropped: they are not what was decided by.
        """
        if self._is_in_head:
            super().on_header(name, value)
            self._check_coding(name, value)
        self._num_header_bytes += len(name) + len(value) + len(b": \r\n")
        if len(self.url) + self._num_header_bytes > self.settings.max_header_bytes:
            self._refuse(431, "The head of the request is too large.")

    def _check_coding(self, name: bytes, value: bytes) -> None:
        """Refuse a body that is more than cut into chunks; the parser looks at the last word."""
        if name.lower() == b"transfer-encoding" and value.strip().lower() != b"chunked":
            self._refuse(400, "Invalid Transfer-Encoding: expected nothing but 'chunked'.")

    def on_message_begin(self) -> None:
        """Restart the clock: a request begins on a kept connection."""
        super().on_message_begin()
        self._is_between = False
        self._began_at = time.perf_counter()
        self._is_in_head = True
        self._num_head_bytes = 0
        self._num_header_bytes = 0
        self._restart(self.settings.header_timeout_s, self._on_slow_head)

    def on_headers_complete(self) -> None:
        """Switch to the body's clock."""
        if self.parser.get_method() == b"CONNECT":  # what follows would be no HTTP
            self._refuse(400, "Expected a request for this server, but CONNECT asks for another.")
        self._is_upgrade = self.parser.should_upgrade()
        if self._is_refused or self._is_upgrade:
            return
        self._restart(self.settings.body_timeout_s + BODY_LINGER_S, self._on_slow_body)
        is_old = self.parser.get_http_version() == "1.0"
        self.expect_100_continue = self.expect_100_continue and not is_old
        super().on_headers_complete()
        self._is_in_head = False
        if is_old:
            _send_as_http_1_0(self.cycle)
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        self._cycles.append(self.cycle)

    def on_message_complete(self) -> None:
        """Stop the clock: the request is whole."""
        if self._is_refused or self._is_upgrade:
            return
        self._is_between = True
        self._deadline.cancel()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request; if there is none to come, the answer must be read in time."""
        super().on_response_complete()
        self._mind_closing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._mind_closing()

    def shutdown(self) -> None:
        """Close as soon as what runs has been answered."""
        super().shutdown()
        self._mind_closing()

    def _mind_closing(self) -> None:
        """A closed transport waits for ever for bytes to be read: we do not."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size() > 0:
            self._start_unread_clock()

    def pause_writing(self) -> None:
        """Start the clock of a client that lets its answer pile up."""
        super().pause_writing()
        self._start_unread_clock()

    def resume_writing(self) -> None:
        """Stop that clock: most of it has been read."""
        super().resume_writing()
        self._stop_unread_clock()

    def _start_unread_clock(self) -> None:
        if self._unread is None:
            wait_s = self.settings.write_timeout_s
            self._unread = self.loop.call_later(wait_s, self._on_slow_reader)

    def _stop_unread_clock(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _on_slow_reader(self) -> None:
        self._unread = None
        if self.transport.get_write_buffer_size() > 0:
            _log.info("connection cut off", reason="its answer is not read")
            self.transport.abort()

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
            self._close()

    def _close(self) -> None:
        self.transport.close()
        self._mind_closing()

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
        is_answered = self._is_in_body() and self.cycle.response_complete
        self._disconnect_cycles()
        if is_mid_answer:
            self._close()
            return
        if not is_answered:
            self._count(status)
            self.transport.write(self._refusal(http_error(HTTPException(status, message))))
        self.transport.write_eof()
        self._deadline = self.loop.call_later(REFUSAL_LINGER_S, self._close)

    def _is_in_body(self) -> bool:
        """Tell whether a request has been handed to the app whose body is not whole."""
        return not (self._is_between or self._is_in_head)

    def _count(self, status: int) -> None:
        """Count a refusal: as the answer of the request whose body it is about, or as one more."""
        is_waiting = any(cycle is self.cycle for cycle, _ in self.pipeline)
        if self._is_in_body() and not is_waiting:
            self.cycle.scope["state"][REFUSED] = status
            return
        is_known = not self._is_between and bool(self.url)
        method = self.parser.get_method().decode("latin-1") if is_known else ""
        seconds = time.perf_counter() - self._began_at
        self.application.metrics.refused(method, status, 0.0 if self._is_between else seconds)

    def _refusal(self, error: HttpError) -> bytes:
        """Return a whole answer, with what is known of the request: perhaps nothing."""
        is_known = not self._is_between and bool(self.headers)  # then the address is whole too
        headers = Headers(raw=self.headers if is_known else [])
        context = RequestContext(
            self.application.render_error,
            client_request_id=client_request_id(headers),
            started_at=self._began_at,
        )
        path = _path_of(self.url) if is_known else ""
        body = self.application.render_error(error, request_id=context.request_id, path=path)
        lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
        lines += [f"{n.decode()}: {v.decode()}" for n, v in self.server_state.default_headers]
        for name, value in {
            **json_headers(body),
            **NO_STORE,
            **context.answer_headers(),
            **self._cors_headers(path, headers),
            "connection": "close",
        }.items():
            lines.append(f"{name}: {value}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def _cors_headers(self, path: str, headers: Headers) -> dict[str, str]:
        """Return what lets a page read the refusal, also one whose origin did not arrive."""
        policy = self.application.cors
        if "origin" not in headers and policy.is_any:
            headers = Headers({"origin": "null"})
        return policy.headers(path, headers)


def protocol_class(application: Application) -> type[GuardedProtocol]:
    """Return the class to hand to uvicorn, bound to what it refuses for."""
    bound = {"settings": application.settings, "application": application}
    return type("BoundProtocol", (GuardedProtocol,), bound)


def _send_as_http_1_0(cycle: RequestResponseCycle) -> None:
    """Send an answer of unknown length as it is: closing the connection, uvicorn does, ends it.

    uvicorn would send chunks, which HTTP/1.0 does not know.
    """
    send = cycle.send

    async def send_plainly(message: Message) -> None:
        while cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        cycle.chunked_encoding = False
        cycle.expected_content_length = len(message.get("body", b""))  # uvicorn compares with it
        await send(message)  # type: ignore[arg-type]

    cycle.send = send_plainly  # type: ignore[method-assign, assignment]


def _path_of(url: bytes) -> str:
    try:
        return unquote(httptools.parse_url(url).path.decode("ascii"))
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError):
        return ""
