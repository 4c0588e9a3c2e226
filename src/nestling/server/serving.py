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

from nestling.log import get_logger
from nestling.server.application import Application
from nestling.server.lifecycle import Lifecycle
from nestling.server.listening import listen
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
    listeners = listen(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listeners[0].getsockname()[1]}"
    if not is_loopback(settings.host):
        _log.warning("reachable from other machines without TLS", host=settings.host)
    lifecycle = app.lifecycle
    server = _Server(_config(app, settings), lambda: on_ready(url))
    drain = asyncio.create_task(_drain_at_signal(server, lifecycle, settings))
    serving = asyncio.create_task(server.serve(sockets=listeners))
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
        for listener in listeners:
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
