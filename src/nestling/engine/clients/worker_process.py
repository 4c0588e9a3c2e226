"""One engine process as its parent sees it: start, frames to and fro, hangs, end."""

import asyncio
import contextlib
import logging
import math
import os
import socket
import subprocess
from collections.abc import Callable, Sequence

from nestling.engine.clients import wire
from nestling.engine.clients.messages import EngineCommand, EngineEvent, EngineInfo, LoadFailed
from nestling.engine.clients.stacks import stacks_of
from nestling.engine.clients.stall_watch import StallWatch
from nestling.engine.config import EngineConfig
from nestling.engine.progress import create_page, map_page
from nestling.errors import EngineError, ModelFileError, NestlingError
from nestling.weights.progress import Progress, no_progress

logger = logging.getLogger(__name__)

_STDERR = 2
_TELL_INTERVAL_S = 0.2
_KILL_TIMEOUT_S = 5.0
"""A process in the kernel's hands, on a dead disk perhaps, does not end when it is killed."""


class WorkerProcess:
    """A started process that has loaded its model; `start` makes one."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        page: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._page = page
        self._reader = reader
        self._writer = writer
        self._info: EngineInfo | None = None
        self._progress = map_page(page)
        self._watch = StallWatch(math.inf, 0.0)
        self.hang: str | None = None
        """Why the process is killed, once it hangs."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stalled_s(self) -> float:
        """For how long it has had work and made no progress."""
        return self._watch.stalled_s(asyncio.get_running_loop().time())

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None
        return self._info

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        config: EngineConfig,
        load_timeout_s: float,
        on_load: Progress = no_progress,
    ) -> "WorkerProcess":
        """Return a process that is ready; raises `ModelFileError` or `EngineError` and leaves none.

        A load that makes no progress for `load_timeout_s` is ended. `on_load` hears how far it is.
        """
        try:
            process, page, ours = _spawn(argv)
        except OSError as error:  # no such program, or no more processes or descriptors
            raise EngineError(f"the engine process could not be started: {error}") from error
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:  # cancelled
            ours.close()
            os.close(page)
            process.kill()
            process.wait()
            raise
        child = cls(process, page, reader, writer)
        watch = asyncio.create_task(child.end_if_it_hangs(load_timeout_s, lambda: True))
        telling = asyncio.create_task(child._tell_load(on_load))
        try:
            child.write(wire.pack(config))
            child._info = await child._receive_info()
        except BaseException:
            watch.cancel()
            await child.end(0)
            raise
        finally:
            telling.cancel()
        watch.cancel()
        return child

    async def end_if_it_hangs(self, timeout_s: float, has_work: Callable[[], bool]) -> None:
        """Watch until the process makes no progress for so long while it has work; then kill it.

        Its stacks go to the log first. The parent sees the end of its socket, as when it dies.
        """
        loop = asyncio.get_running_loop()
        self._watch = watch = StallWatch(timeout_s, loop.time())
        while True:
            if watch.is_stalled(loop.time(), self._progress.total(), has_work=has_work()):
                break
            await asyncio.sleep(watch.interval_s)
        self.hang = f"made no progress for {timeout_s:g} s{self._load_state()} and was killed"
        try:
            stacks = await stacks_of(self._process, self._page)
            logger.error("the engine process %d hangs; its threads:\n%s", self.pid, stacks)
        finally:
            self._process.kill()
            self._writer.transport.abort()

    async def _tell_load(self, on_load: Progress) -> None:
        while True:
            await asyncio.sleep(_TELL_INTERVAL_S)
            num_done, num_total = self._progress.loaded_bytes
            if num_total:
                on_load(num_done, num_total)

    def _load_state(self) -> str:
        num_done, num_total = self._progress.loaded_bytes
        if self._info is not None or not num_total:
            return ""
        return f", at {num_done / 1e9:.1f} of {num_total / 1e9:.1f} GB,"

    async def _receive_info(self) -> EngineInfo:
        try:
            events = await self.receive()
        except wire.FrameError as error:
            raise EngineError(f"the engine process began with no message: {error}") from error
        if events is None:
            raise EngineError(f"the engine process did not start: {await self.end(1.0)}")
        match events:
            case [EngineInfo() as info]:
                return info
            case [LoadFailed() as failed]:
                raise _load_error(failed)
            case _:
                raise EngineError("the engine process began with something else than its state")

    def send(self, command: EngineCommand) -> None:
        """Queue a command; one to a process that has just died is lost with it."""
        self.write(wire.pack(command))

    def write(self, frame: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(frame)

    async def receive(self) -> list[EngineEvent] | None:
        """The next events; None once the process has closed its end. Raises `FrameError`."""
        try:
            header = await self._reader.readexactly(wire.HEADER_BYTES)
            body = await self._reader.readexactly(wire.body_length(header))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return wire.unpack_events(body)

    async def end(self, timeout_s: float) -> str:
        """Give the process this long to go, then kill it; return how it ended."""
        waiting = asyncio.create_task(asyncio.to_thread(self._wait_or_kill, timeout_s))
        with contextlib.suppress(ConnectionError):
            self._writer.close()
            await self._writer.wait_closed()
        how = await waiting
        if self._page >= 0:
            os.close(self._page)
            self._page = -1
        return how if self.hang is None else f"it {self.hang} ({how})"

    def _wait_or_kill(self, timeout_s: float) -> str:
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                code = self._process.wait(_KILL_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                return f"process {self.pid} does not end though it was killed"
        return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _spawn(argv: Sequence[str]) -> tuple[subprocess.Popen[bytes], int, socket.socket]:
    """Return the process, the page of its progress, and our end of its socket.

    It gets a session of its own, so that the terminal's Ctrl-C is the parent's alone.
    """
    with contextlib.ExitStack() as ours_on_error:
        page = create_page()
        ours_on_error.callback(os.close, page)
        ours, theirs = socket.socketpair()
        ours_on_error.enter_context(ours)
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*argv, str(theirs.fileno()), str(page)],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                pass_fds=[theirs.fileno(), page],
                start_new_session=True,
            )
        ours_on_error.pop_all()
    return process, page, ours


def _load_error(failed: LoadFailed) -> NestlingError:
    if failed.code != ModelFileError.code or failed.path is None:
        return EngineError(failed.message, code=failed.code)
    at = f"{failed.path}: tensor {failed.tensor}" if failed.tensor else failed.path
    return ModelFileError(failed.path, failed.message.removeprefix(f"{at}: "), tensor=failed.tensor)
