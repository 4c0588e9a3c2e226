"""One engine process as its parent sees it: start, frames to and fro, end."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Sequence

from nestling.engine.clients import wire
from nestling.engine.clients.messages import EngineCommand, EngineEvent, EngineInfo, LoadFailed
from nestling.engine.config import EngineConfig
from nestling.errors import EngineError, ModelFileError, NestlingError

_STDERR = 2


class WorkerProcess:
    """A started process that has loaded its model; `start` makes one."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._info: EngineInfo | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None
        return self._info

    @classmethod
    async def start(cls, argv: Sequence[str], config: EngineConfig) -> "WorkerProcess":
        """A process that is ready; raises `ModelFileError` or `EngineError` and leaves none."""
        try:
            process, ours = _spawn(argv)
        except OSError as error:  # no such program, or no more processes or descriptors
            raise EngineError(f"the engine process could not be started: {error}") from error
        reader, writer = await asyncio.open_connection(sock=ours)
        child = cls(process, reader, writer)
        try:
            child.write(wire.pack(config))
            child._info = await child._receive_info()
        except BaseException:
            await child.end(0)
            raise
        return child

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
        """Give the process this long to go, then kill it; says how it ended."""
        waiting = asyncio.create_task(asyncio.to_thread(self._wait_or_kill, timeout_s))
        with contextlib.suppress(ConnectionError):
            self._writer.close()
            await self._writer.wait_closed()
        code = await waiting
        return f"exit code {code}" if code >= 0 else f"signal {-code}"

    def _wait_or_kill(self, timeout_s: float) -> int:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _spawn(argv: Sequence[str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process and our end of its socket.

    It gets a session of its own, so that the terminal's Ctrl-C is the parent's alone.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*argv, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
    return process, ours


def _load_error(failed: LoadFailed) -> NestlingError:
    if failed.code != ModelFileError.code or failed.path is None:
        return EngineError(failed.message, code=failed.code)
    at = f"{failed.path}: tensor {failed.tensor}" if failed.tensor else failed.path
    return ModelFileError(failed.path, failed.message.removeprefix(f"{at}: "), tensor=failed.tensor)
