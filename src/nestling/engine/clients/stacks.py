"""Tells what the threads of a hung process do: their Python stacks, else what the system tells."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

from nestling.engine.progress import STACKS_OFFSET

_TIMEOUT_S = 1.0
_POLL_S = 0.05
_MAX_BYTES = 64 * 1024
_PROC = Path("/proc")


async def stacks_of(process: subprocess.Popen[bytes], page: int) -> str:
    """Return stacks that the process writes into its page, or `thread_states` if it writes none."""
    process.send_signal(signal.SIGUSR1)
    before = b""
    for _ in range(round(_TIMEOUT_S / _POLL_S)):
        await asyncio.sleep(_POLL_S)
        stacks = os.pread(page, _MAX_BYTES, STACKS_OFFSET)
        if stacks and stacks == before:
            return stacks.decode(errors="replace").rstrip()
        before = stacks
    return await asyncio.to_thread(thread_states, process.pid)


def thread_states(pid: int, proc: Path = _PROC) -> str:
    """Return a line for each thread: its state and the kernel function in which it waits.

    The kernel's own stack follows where this process may read it.
    """
    try:
        threads = sorted((proc / str(pid) / "task").iterdir(), key=lambda path: int(path.name))
    except OSError as error:
        return f"the system tells nothing of process {pid}: {error.strerror}"
    lines = []
    for thread in threads:
        status = dict(line.split(":", 1) for line in _read(thread / "status").splitlines())
        name, state = (status.get(key, "unknown").strip() for key in ("Name", "State"))
        place = _read(thread / "wchan").strip() or "unknown"
        lines.append(f"thread {thread.name} ({name}): state {state}, waits in {place}")
        lines += [f"  {line}" for line in _read(thread / "stack").splitlines()]
    return "\n".join(lines)


def _read(path: Path) -> str:
    """Return a file of a thread; empty if it is gone or may not be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
