"""The engine process: `python -m nestling.engine.worker FD PAGE`, started by `ProcessEngine` only.

FD is one end of a socket pair, PAGE the file of `engine/progress.py`; SIGUSR1 writes the stacks
there. The main thread runs the loop and writes events; a second thread reads commands. The parent
decides about its life: signals of the terminal are ignored, and when the parent is gone the socket
ends (and Linux sends a kill), and so does this process.
"""

import ctypes
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from nestling.engine.clients import wire
from nestling.engine.clients.messages import EngineEvent, LoadFailed, Shutdown
from nestling.engine.loop import EngineLoop
from nestling.engine.progress import STACKS_OFFSET, map_page
from nestling.engine.runners.load import load_runner
from nestling.engine.runners.runner import LoadRunner
from nestling.errors import EngineError, ModelFileError, NestlingError
from nestling.log import configure_logging

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Connection:
    """Blocking frames over the socket; reading and writing may be on different threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb")

    def receive(self) -> bytes | None:
        """The next frame's body; None if the parent is gone."""
        header = self._reader.read(wire.HEADER_BYTES)
        if len(header) < wire.HEADER_BYTES:
            return None
        length = wire.body_length(header)
        body = self._reader.read(length)
        return body if len(body) == length else None

    def send(self, events: Sequence[EngineEvent]) -> None:
        self._sock.sendall(wire.pack(events))


def main(argv: Sequence[str], load: LoadRunner = load_runner) -> int:
    """Run one engine until it is told to stop; returns the exit code."""
    configure_logging()
    faulthandler.enable()
    _bind_life_to_parent()
    page = int(argv[2])
    progress = map_page(page)
    os.lseek(page, STACKS_OFFSET, os.SEEK_SET)
    faulthandler.register(signal.SIGUSR1, page)
    connection = Connection(socket.socket(fileno=int(argv[1])))
    first = connection.receive()
    if first is None:
        return 0
    config = wire.unpack_config(first)
    configure_logging(config.log_level, config.log_format)
    if sys.stderr.isatty():
        logging.getLogger("nestling.weights").setLevel(logging.WARNING)  # the parent shows a bar
    try:
        runner = load(config, progress)
    except NestlingError as error:
        connection.send([load_failed(error)])
        return error.exit_code
    except Exception:
        logger.exception("the model could not be loaded")
        connection.send([LoadFailed(EngineError.code, "the model could not be loaded")])
        return 1
    loop = EngineLoop(runner, config, connection.send, progress=progress)
    connection.send([loop.info])
    reader = threading.Thread(target=_read_commands, args=(connection, loop), daemon=True)
    reader.start()
    loop.run()
    reader.join()  # it ends with the same Shutdown; while it lives it holds the whole model
    return 0


def load_failed(error: NestlingError) -> LoadFailed:
    """The message that carries a load error to the parent."""
    if isinstance(error, ModelFileError):
        return LoadFailed(error.code, error.message, error.path, error.tensor)
    return LoadFailed(error.code, error.message)


def _read_commands(connection: Connection, loop: EngineLoop) -> None:
    """Post commands until Shutdown; end the process if the connection ends before."""
    try:
        while (body := connection.receive()) is not None:
            command = wire.unpack_command(body)
            loop.post(command)
            if isinstance(command, Shutdown):
                return
    except (OSError, wire.FrameError):
        logger.exception("the connection to the parent broke")
        os._exit(1)
    os._exit(0)  # the parent is gone: nobody is left to finish a step for


def _bind_life_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager signals the whole group
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # If memory runs out, the kernel should take this process and leave the web process.
        try:
            Path("/proc/self/oom_score_adj").write_text("500")
        except OSError as error:
            logger.info("cannot offer itself to the out-of-memory killer: %s", error)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
