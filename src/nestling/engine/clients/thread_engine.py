"""`EngineClient` over an engine loop in a thread of this process: for `LLM` and for tests.

The loop's thread owns the engine; this object lives on one asyncio loop and only posts commands.
Nobody watches whether the loop hangs: a thread cannot be killed.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Sequence

from nestling.engine.clients.live_requests import LiveRequests
from nestling.engine.clients.messages import (
    Abort,
    EngineEvent,
    EngineInfo,
    GetStats,
    Shutdown,
    Stats,
    Submit,
    TokenOutput,
)
from nestling.engine.clients.wire import pack_submit
from nestling.engine.config import EngineConfig
from nestling.engine.loop import EngineLoop
from nestling.engine.progress import EngineProgress
from nestling.engine.runners.load import load_runner
from nestling.engine.runners.runner import LoadRunner
from nestling.errors import EngineError, ServerShutdownError

logger = logging.getLogger(__name__)


class ThreadEngine:
    """An engine that starts and ends with this process's own asyncio loop."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        load: LoadRunner = load_runner,
        health_timeout_s: float = 10.0,
    ) -> None:
        self._config = config
        self._load = load
        self._health_timeout_s = health_timeout_s
        self._live = LiveRequests(config.max_num_seqs + config.max_waiting)
        self._loop: EngineLoop | None = None
        self._thread: threading.Thread | None = None
        self._asyncio_loop: asyncio.AbstractEventLoop | None = None

    @property
    def info(self) -> EngineInfo:
        return self._running_loop().info

    async def start(self) -> None:
        """Load the model in a thread and begin; raises `ModelFileError` or `EngineError`."""
        if self._thread is not None:
            raise EngineError("the engine has been started before")
        self._asyncio_loop = asyncio.get_running_loop()
        progress = EngineProgress()
        runner = await asyncio.to_thread(self._load, self._config, progress)
        self._loop = EngineLoop(runner, self._config, self._emit, progress=progress)
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="engine-loop")
        self._thread.daemon = True  # a caller that forgets stop() must still be able to exit
        self._thread.start()

    async def generate(self, submit: Submit) -> AsyncGenerator[TokenOutput, None]:
        loop = self._running_loop()
        pack_submit(submit)  # the same check of types as on the way to an engine process
        outputs = self._live.generate(
            submit.request_id,
            start=lambda: loop.post(submit),
            abort=lambda: loop.post(Abort(submit.request_id)),
        )
        try:
            async for output in outputs:
                yield output
        finally:
            await outputs.aclose()

    async def abort(self, request_id: str) -> None:
        self._running_loop().post(Abort(request_id))

    async def health(self) -> Stats:
        loop = self._running_loop()
        stats = await self._live.probe(
            lambda probe_id: loop.post(GetStats(probe_id)), self._health_timeout_s
        )
        if stats is None:
            raise EngineError(f"the engine did not answer within {self._health_timeout_s:g} s")
        return stats

    async def stop(self) -> None:
        """End the loop after its present step; live requests end with `ServerShutdownError`."""
        if self._loop is None or self._thread is None:
            return
        self._live.fail_all(lambda: ServerShutdownError("the engine is shutting down"))
        self._loop.post(Shutdown())
        self._loop = None
        await asyncio.to_thread(self._thread.join)

    def _running_loop(self) -> EngineLoop:
        if self._loop is None:
            raise EngineError("the engine is not running")
        return self._loop

    def _run(self, loop: EngineLoop) -> None:
        """The engine thread: ends by Shutdown, or by a defect of the loop itself."""
        try:
            loop.run()
        except Exception:
            logger.exception("the engine loop ended by a defect of its own")
            self._call_soon(self._die)

    def _die(self) -> None:
        self._loop = None
        self._live.fail_all(lambda: EngineError("the engine loop has ended"))

    def _emit(self, events: Sequence[EngineEvent]) -> None:
        self._call_soon(lambda: self._live.dispatch(events))

    def _call_soon(self, callback: Callable[[], None]) -> None:
        assert self._asyncio_loop is not None
        if not self._asyncio_loop.is_closed():
            self._asyncio_loop.call_soon_threadsafe(callback)
