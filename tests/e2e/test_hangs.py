"""A server whose engine is stopped: nobody waits for it longer than the settings say."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Server, start_server, stop_server
from tests.e2e.test_serve import URL, body, engine_pid

TIMEOUT_S = 2.0


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server that finds a hang after `TIMEOUT_S`."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "nestling.toml").write_text(f"engine_timeout_s = {TIMEOUT_S}\n")
    running = start_server(data_dir)
    yield running
    stop_server(running)


def test_a_stopped_engine_is_replaced_and_probes_do_not_wait(own_server: Server) -> None:
    """The request gets 503 `engine_restarted`, the probes answer meanwhile, the next one works."""
    pid = engine_pid(own_server)
    os.kill(pid, signal.SIGSTOP)
    with own_server.client() as client:
        begin = time.monotonic()
        answer = client.post(URL, json=body("Hello!"), timeout=60)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "engine_restarted"
        assert TIMEOUT_S <= time.monotonic() - begin < 30
        ready = client.get(
            "/readyz"
        )  # the first pause before a new start is 0.1 s, its load longer
        assert ready.status_code == 503
        assert "made no progress for 2 s and was killed" in ready.json()["error"]["message"]
        deadline = time.monotonic() + 60
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.post(URL, json=body("Hello!")).status_code == 201
        os.kill(engine_pid(own_server), signal.SIGSTOP)
        for path in ("/livez", "/metrics", "/readyz"):
            begin = time.monotonic()
            httpx.get(own_server.url + path, timeout=60)
            assert time.monotonic() - begin < 8
    log = next(own_server.data_dir.parent.glob("serve-*.log")).read_text()
    assert f"engine process {pid} hangs" in log
    assert "state T (stopped)" in log


def test_sigterm_ends_a_server_whose_engine_is_stopped(tmp_path: Path) -> None:
    """Within the time that a manager of services gives, and without a process left behind."""
    server = start_server(tmp_path / "data")
    pid = engine_pid(server)
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    assert stop_server(server) == 0
    assert time.monotonic() - begin < 30
    assert not Path(f"/proc/{pid}").exists()
