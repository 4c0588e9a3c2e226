"""The real server as a user starts it: `nestling serve` on a free loopback port, stopped by pid."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

START_LIMIT_S = 30.0


@dataclass
class Server:
    """A running `nestling serve`: where it listens, what it printed, the key of its first start."""

    url: str
    data_dir: Path
    process: subprocess.Popen[str]
    banner: str
    key: str

    def client(self, **headers: str) -> httpx.Client:
        """An HTTP client with the key; the caller closes it."""
        auth = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=auth | headers, timeout=60)


def free_port() -> int:
    """A loopback port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def nestling(*args: str) -> list[str]:
    """The command line of `nestling ARGS` in this environment."""
    return [str(Path(sys.executable).with_name("nestling")), *args]


def start_server(data_dir: Path, *args: str, program: Path | None = None) -> Server:
    """Start a server and wait until it is ready; fails with what it printed if it ends instead.

    `program` is the `nestling` of another environment; it runs outside of the source tree.
    """
    command = nestling("serve") if program is None else [str(program), "serve"]
    port = free_port()
    out = data_dir.parent / f"serve-{port}.log"
    with out.open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--data-dir", str(data_dir), *args],
            cwd=None if program is None else data_dir.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env={k: v for k, v in os.environ.items() if not k.startswith("NESTLING_")},
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_LIMIT_S
    while "curl " not in out.read_text():
        assert process.poll() is None, f"the server ended: {out.read_text()}"
        assert time.monotonic() < deadline, f"not ready in {START_LIMIT_S} s: {out.read_text()}"
        time.sleep(0.02)
    banner = out.read_text()
    found = re.search(r"g3n_live_\w+", banner)
    return Server(url, data_dir, process, banner, found[0] if found else "")


def stop_server(server: Server) -> int:
    """End the server the polite way; returns its exit code."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
    return server.process.wait(timeout=40)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with the embedded model for all tests that only read from it."""
    running = start_server(tmp_path_factory.mktemp("e2e") / "data")
    yield running
    assert stop_server(running) == 0
