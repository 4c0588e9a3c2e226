"""`nestling serve` as a command: what it prints, and that a key is made only where it is seen.

What the running server does is tested in tests/e2e/test_serve.py.
"""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from nestling.cli.serve import banner
from nestling.settings import load_settings
from nestling.weights.catalog import ModelEntry, embedded_model
from tests.cli.conftest import Call
from tests.e2e.conftest import free_port, nestling

URL = "http://127.0.0.1:8000"
SECRET = "g3n_live_" + "x" * 46


def keys(call: Call) -> list[str]:
    return [row["name"] for row in json.loads(call("keys", "list", "--json").out)]


def test_the_first_banner_has_the_key_and_a_line_to_try() -> None:
    shown = banner(URL, embedded_model(), load_settings(), SECRET)
    assert shown.startswith("Nestling ")
    assert f"is ready: {URL}\n" in shown
    assert "nestling-nano, the embedded demo" in shown
    assert f"  key    {SECRET}\n" in shown
    line = shown[shown.index("  curl ") :]
    assert f"'Authorization: Bearer {SECRET}'" in line
    body = json.loads(line[line.index("-d '") + 4 : line.rindex("'")])
    assert body["messages"] == [{"role": "user", "content": "Hello!"}]


def test_a_later_banner_names_no_key(tmp_path: Path) -> None:
    entry = ModelEntry("mine", tmp_path / "a\x1b[2J\nb.gguf", is_embedded=False)
    shown = banner(URL, entry, load_settings(), None)
    assert "g3n_live_" not in shown
    assert "nestling keys create --name NAME" in shown
    assert rf"  model  mine ({tmp_path}/a\x1b[2J\nb.gguf)" in shown


@pytest.mark.parametrize("target", ["/dev/full", "closed"])
def test_the_first_start_makes_no_key_that_nobody_has_seen(
    call: Call, tmp_path: Path, target: str
) -> None:
    with Path("/dev/full" if target == "/dev/full" else os.devnull).open("w") as out:
        command = nestling("serve", "--port", "0")
        done = subprocess.run(
            ["bash", "-c", '"$@" >&-', "-", *command] if target == "closed" else command,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert "the first API key cannot be shown; no key was made" in done.stderr
    assert "Traceback" not in done.stderr
    assert keys(call) == []


def test_a_port_in_use_at_the_first_start_makes_no_key(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            nestling("serve", "--port", port), capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"host 127.0.0.1, port {port}: cannot listen there" in done.stderr
    assert keys(call) == []


def test_a_later_start_needs_no_reader(call: Call, tmp_path: Path) -> None:
    """A server whose banner nobody can read serves all the same, and says so in the log."""
    call("keys", "create", "--name", "mine")
    port, log = free_port(), tmp_path / "log"
    with Path("/dev/full").open("w") as full, log.open("w") as err:
        process = subprocess.Popen(nestling("serve", "--port", str(port)), stdout=full, stderr=err)
        try:
            deadline = time.monotonic() + 30
            while "banner not shown" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            process.wait()
    assert keys(call) == ["mine"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--port", "65536"), "port: expected less than or equal to 65535, but got 65536"),
        (("--host", "http://127.0.0.1"), "host: expected a host name or address alone"),
        (("--config", "no/such.toml"), "no/such.toml: expected a settings file"),
        (("--config", "/"), "/: cannot be read: Is a directory"),
        (("--engine", "fast"), "engine: expected 'native' or 'reference'"),
    ],
    ids=["port", "host", "no file", "folder", "engine"],
)
def test_what_cannot_be_stops_the_start(call: Call, args: tuple[str, ...], said: str) -> None:
    done = call("serve", *args)
    assert (done.exit_code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
