"""The command line in this process (fast), as a program of its own, and on a pseudo terminal."""

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

import pytest

from nestling.cli import main
from nestling.settings import ENV_PREFIX
from tests.e2e.conftest import nestling


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it printed."""

    exit_code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture(autouse=True)
def _own_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what this machine has set, and its data, out of the tests."""
    for name in list(os.environ):
        if name.upper().startswith(ENV_PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NESTLING_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `nestling ARGS` in this process, whose streams are pytest's."""

    def run_here(*args: str) -> Done:
        monkeypatch.setattr("nestling.cli.main.open_streams", lambda: None)
        monkeypatch.setattr("nestling.cli.model.show_notices", lambda: None)
        monkeypatch.setattr(sys, "argv", ["nestling", *args])
        with pytest.raises(SystemExit) as ended:
            main.main()
        captured = capsys.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return Done(code, captured.out, captured.err)

    return run_here


def run(
    *args: str, stdin: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `nestling ARGS` as a program, to its end."""
    return subprocess.run(
        nestling(*args),
        input=stdin,
        capture_output=True,
        timeout=60,
        env={**os.environ, **(env or {})},
    )


def shell(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `nestling` is ours."""
    folder = str(Path(sys.executable).parent)
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **env},
    )


class Terminal:
    """`nestling ARGS` on a pseudo terminal."""

    def __init__(self, *args: str, term: str = "xterm", columns: int = 80) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            # Not the environment of C, in which the readline of this process has put a width.
            env = {**os.environ, "TERM": term}
            os.execve(nestling()[0], nestling(*args), env)  # noqa: S606 - our own program
        self.seen = ""

    def expect(self, pattern: str, timeout_s: float = 30) -> str:
        """Read until the pattern appears in what came since the last match; returns that text."""
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                pytest.fail(f"no {pattern!r} in {self.seen!r}")
            data = self._read()
            if not data:
                pytest.fail(f"ended without {pattern!r}: {self.seen!r}")
            self.seen += data
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def send(self, text: str, end: str = "\n") -> None:
        """Type a line."""
        os.write(self.fd, (text + end).encode())

    def rest(self) -> str:
        """Return what is still printed until the end."""
        while data := self._read():
            self.seen += data
        return self.seen

    def exit_code(self) -> int:
        """Wait for the end."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code

    def _read(self) -> str:
        try:
            return os.read(self.fd, 4096).decode(errors="replace")
        except OSError:  # the other side is closed
            return ""
