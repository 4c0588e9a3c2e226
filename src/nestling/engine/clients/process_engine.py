"""`EngineClient` over an engine in a process of its own: starts it, watches it, replaces it.

Runs on one asyncio loop of the web process. When the engine process dies, or hangs and is killed,
its live requests end with `EngineRestartedError` and a new process is started, with growing pauses;
after 5 deaths within 60 s it stays down, since a model that always dies would only burn the
machine.
"""

import asyncio
import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from nestling.engine.clients.live_requests import LiveRequests
from nestling.engine.clients.messages import (
    Abort,
    EngineInfo,
    GetStats,
    Shutdown,
    Stats,
    Submit,
    TokenOutput,
)
from nestling.engine.clients.wire import FrameError, pack_submit
from nestling.engine.clients.worker_process import WorkerProcess
from nestling.engine.config import EngineConfig
from nestling.errors import (
    EngineError,
    EngineRestartedError,
    NestlingError,
    OverloadedError,
    ServerShutdownError,
)
from nestling.weights.progress import Progress, no_progress

logger = logging.getLogger(__name__)

MAX_HOLD_S = 60.0
"""How long a request waits for a new process."""
MAX_DEATHS = 5
DEATH_WINDOW_S = 60.0
MAX_BACKOFF_S = 5.0
STOP_TIMEOUT_S = 5.0
EXIT_TIMEOUT_S = 1.0
"""Between the end of its socket and the end of a process."""
ENGINE_ARGV = (sys.executable, "-m", "nestling.engine.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTimeouts:
    """When the engine counts as hung, and when a probe is answered without it."""

    step_s: float = 10.0
    """Time without progress while there is work."""
    load_s: float = 600.0
    """Time without progress while the model is loaded."""
    health_s: float = 1.0
    """Time that a busy engine has to answer a probe; then its last answer is given again."""


DEFAULT_TIMEOUTS = EngineTimeouts()


class ProcessEngine:
    """An engine process and the requests that are with it."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        argv: Sequence[str] = ENGINE_ARGV,
        timeouts: EngineTimeouts = DEFAULT_TIMEOUTS,
        backoff_s: float = 0.1,
        on_load: Progress = no_progress,
    ) -> None:
        """Prepare an engine; `on_load` hears of the first load, every fraction of a second."""
        self._on_load = on_load
        self._config = config
        self._argv = tuple(argv)
        self._timeouts = timeouts
        self._backoff_s = backoff_s
        self._live = LiveRequests(config.max_num_seqs + config.max_waiting)
        self._child: WorkerProcess | None = None
        self._info: EngineInfo | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[str] | None = None
        self._is_up = asyncio.Event()
        self._num_held = 0
        self._why_down = "has not started"
        """What the last process did, said after "the engine process"."""
        self._end: NestlingError | None = EngineError("the engine has not been started")

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise EngineError("the engine has not been started")
        return self._info

    @property
    def pid(self) -> int | None:
        """The present engine process; None while there is none."""
        return None if self._child is None else self._child.pid

    async def start(self) -> None:
        """Start the process and await its model; raises `ModelFileError` or `EngineError`."""
        if self._supervisor is not None:
            raise EngineError("the engine has been started before")
        child = await self._new_child(self._on_load)
        self._end = None
        self._adopt(child)
        self._supervisor = asyncio.create_task(self._supervise(child), name="engine-supervisor")

    async def generate(self, submit: Submit) -> AsyncGenerator[TokenOutput, None]:
        frame = pack_submit(submit)
        child = await self._living_child()
        outputs = self._live.generate(
            submit.request_id,
            start=lambda: child.write(frame),
            abort=lambda: child.send(Abort(submit.request_id)),
        )
        try:
            async for output in outputs:
                yield output
        finally:
            await outputs.aclose()

    async def abort(self, request_id: str) -> None:
        if self._child is not None:
            self._child.send(Abort(request_id))

    async def health(self) -> Stats:
        if self._end is not None:
            raise self._copy_of_end()
        child = self._child
        if child is None:
            raise self._restarted("a new one is starting")
        stats = await self._live.probe(
            lambda probe_id: child.send(GetStats(probe_id)), self._timeouts.health_s
        )
        if stats is None and child.stalled_s < self._timeouts.step_s / 2:
            stats = self._live.last_stats  # in the middle of a long step
        if stats is None:
            raise EngineError(f"the engine has made no progress for {child.stalled_s:.0f} s")
        return stats

    async def stop(self) -> None:
        """End the process; live requests end with `ServerShutdownError`."""
        if self._supervisor is None:
            return
        self._give_up(ServerShutdownError("the engine is shutting down"))
        self._supervisor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._supervisor
        if self._ending is not None:
            await self._ending
        child, self._child = self._child, None
        if child is not None:
            child.send(Shutdown())
            await child.end(STOP_TIMEOUT_S)

    # --- the process -----------------------------------------------------------------------------

    def _adopt(self, child: WorkerProcess) -> None:
        self._child = child
        self._info = child.info
        self._is_up.set()
        child.send(GetStats(0))  # before any request, so that `last_stats` is soon there

    async def _living_child(self) -> WorkerProcess:
        """The engine process; while a new one starts, as many requests wait as fit its queue."""
        places = self._config.max_num_seqs + self._config.max_waiting
        while self._end is None and self._child is None:
            if self._num_held >= places:
                raise OverloadedError(f"the engine is restarting and {places} requests wait for it")
            self._num_held += 1
            try:
                await asyncio.wait_for(self._is_up.wait(), MAX_HOLD_S)
            except TimeoutError:
                raise self._restarted(f"no new one was ready within {MAX_HOLD_S:g} s") from None
            finally:
                self._num_held -= 1
        if self._end is not None:
            raise self._copy_of_end()
        assert self._child is not None
        return self._child

    async def _supervise(self, child: WorkerProcess) -> None:
        deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        try:
            while True:
                await self._pump(child)
                deaths.append(time.monotonic())
                replacement = await self._replace(deaths)
                if replacement is None:
                    return
                child = replacement
                self._adopt(child)
        except Exception:
            logger.exception("the engine's supervisor ended by a defect of its own")
            self._give_up(EngineError("the engine's supervisor has ended"))

    async def _pump(self, child: WorkerProcess) -> None:
        """Hand events on until the process is gone; then end the requests that were with it."""
        watch = asyncio.create_task(
            child.end_if_it_hangs(self._timeouts.step_s, lambda: self._live.has_work)
        )
        try:
            while (events := await child.receive()) is not None:
                self._live.dispatch(events)
        except (OSError, FrameError):
            logger.exception("the connection to the engine process broke")
        finally:
            watch.cancel()
        self._child = None
        self._why_down = child.hang or "died"
        self._is_up.clear()
        self._live.fail_all(lambda: self._restarted("send the request again"))
        self._ending = asyncio.create_task(child.end(EXIT_TIMEOUT_S))
        logger.error("the engine process ended: %s", await asyncio.shield(self._ending))

    async def _replace(self, deaths: deque[float]) -> WorkerProcess | None:
        """A new process; None, and the circuit is open, if they die too often."""
        backoff_s = self._backoff_s
        while True:
            if len(deaths) == MAX_DEATHS and deaths[-1] - deaths[0] < DEATH_WINDOW_S:
                self._give_up(
                    EngineError(
                        f"the engine process died {MAX_DEATHS} times within {DEATH_WINDOW_S:g} s "
                        "and is not started again"
                    )
                )
                return None
            recent = [at for at in deaths if time.monotonic() - at < DEATH_WINDOW_S]
            await asyncio.sleep(min(backoff_s * 2 ** (len(recent) - 1), MAX_BACKOFF_S))
            try:
                return await self._new_child()
            except NestlingError as error:
                logger.error("the engine process did not start: %s", error)  # noqa: TRY400
                deaths.append(time.monotonic())

    async def _new_child(self, on_load: Progress = no_progress) -> WorkerProcess:
        return await WorkerProcess.start(self._argv, self._config, self._timeouts.load_s, on_load)

    def _restarted(self, then: str) -> EngineRestartedError:
        return EngineRestartedError(f"the engine process {self._why_down}; {then}")

    def _give_up(self, error: NestlingError) -> None:
        """Let every call end with this error from now on, the live and the held ones too."""
        self._end = error
        self._live.fail_all(self._copy_of_end)
        self._is_up.set()

    def _copy_of_end(self) -> NestlingError:
        assert self._end is not None
        return type(self._end)(self._end.message)
