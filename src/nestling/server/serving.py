"""Runs the app under uvicorn until a signal, then drains it. Prints nothing.

At SIGTERM or SIGINT: /readyz and new requests answer 503, what runs may finish until
`shutdown_timeout_s`, the rest is ended with a `server_shutdown` error, then `serve` returns. A
second signal ends the waiting.
"""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import uvicorn

from nestling.errors import SettingsError
from nestling.log import get_logger
from nestling.server.application import Application
from nestling.server.lifecycle import Lifecycle
from nestling.server.origins import is_loopback
from nestling.server.protocol import protocol_class
from nestling.settings import Settings

CUT_TIMEOUT_S = 5
"""What requests get to send their last frame after they were ended."""
T = TypeVar("T")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = get_logger("api")


async def serve(app: Application, settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serve `app` (from `create_app`) until a signal; `on_ready` gets the URL when it listens.

    Raises `SettingsError` if the address cannot be used. Cancelling the task ends what runs, with
    an error to its client, and stops; on other threads than the main one it is the only way.
    """
    listener = _listen(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    if not is_loopback(settings.host):
        _log.warning("reachable from other machines without TLS", host=settings.host)
    lifecycle = app.lifecycle
    server = _Server(_config(app, settings), lambda: on_ready(url))
    drain = asyncio.create_task(_drain_at_signal(server, lifecycle, settings))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        lifecycle.drain()
        lifecycle.cut()
        server.should_exit = True
        await asyncio.wait({serving})
        drain.cancel()
        with suppress(asyncio.CancelledError):
            await drain
        listener.close()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine, on uvloop where there is one."""
    factory = asyncio.new_event_loop
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def spare_startup_objects() -> None:
    """Let later garbage collections pass over all that is there now, as it lives to the end.

    Walking it takes 0.1 s, in which nobody is served. Call it when all is loaded, before `serve`.
    """
    gc.collect()
    gc.freeze()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        place = f"host {settings.host}, port {settings.port}"
        reason = error.strerror or str(error)
        raise SettingsError(f"{place}: cannot listen there: {reason}", param="port") from None
    # Accepted sockets inherit it. asyncio's own loop would leave it off, and the second write of
    # every answer on a kept connection would wait 40 ms for the client's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _config(app: Application, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol_class(app),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.idle_timeout_s,
        timeout_graceful_shutdown=CUT_TIMEOUT_S,
    )


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would drop streams and end us by the signal."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to `serve`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start and say so."""
        await super().startup(sockets)
        self._on_started()


async def _drain_at_signal(server: _Server, lifecycle: Lifecycle, settings: Settings) -> None:
    """Wait for a signal, then for what runs, then let the server stop."""
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    try:
        for number in _SIGNALS:
            loop.add_signal_handler(number, on_signal)
    except (ValueError, RuntimeError):  # not on the main thread
        return
    try:
        await first.wait()
        lifecycle.drain()
        _log.info("draining", num_running=lifecycle.num_running)
        impatient = asyncio.create_task(second.wait())
        idle = asyncio.create_task(lifecycle.wait_idle(settings.shutdown_timeout_s))
        await asyncio.wait({impatient, idle}, return_when=asyncio.FIRST_COMPLETED)
        impatient.cancel()
        idle.cancel()
        lifecycle.cut()
        await lifecycle.wait_idle(CUT_TIMEOUT_S)
        server.should_exit = True
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
