"""`nestling doctor`: what it finds, what it shows, its exit code."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from nestling.cli.doctor import _model
from nestling.llm import LLM
from nestling.settings import load_settings
from tests.cli.conftest import Call
from tests.e2e.conftest import free_port

NAMES = ["python", "processor", "memory", "data directory", "port", "model"]


def test_a_good_machine(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    port = free_port()
    monkeypatch.setenv("NESTLING_PORT", str(port))
    done = call("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.out)}
    assert done.exit_code == 0, checks
    assert list(checks) == NAMES
    assert all(check["is_good"] for check in checks.values())
    assert checks["python"]["detail"].endswith(f"({sys.executable})")
    assert str(tmp_path / "data") in checks["data directory"]["detail"]
    assert f"{port} is free at 127.0.0.1" == checks["port"]["detail"]
    shown = call("doctor").out.splitlines()
    assert [line[:4] for line in shown] == ["ok  "] * len(NAMES)
    assert [line[6:20].strip() for line in shown] == NAMES


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_is_bad_is_named(call: Call, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Every check is made, and the exit code is 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("NESTLING_HOST", host)
        monkeypatch.setenv("NESTLING_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("NESTLING_MODEL", "no-such-model\x1b[2J")
        monkeypatch.setenv("NESTLING_DATA_DIR", "/dev/null/x")
        done = call("doctor")
    assert done.exit_code == 1
    assert done.out.count("FAIL") == 3
    port, model = done.out.splitlines()[-2:]
    assert "Address already in use" in port
    assert r"no-such-model\x1b[2J" in model
    assert "\x1b" not in done.out


def test_it_loads_the_model_as_the_server_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the settings, so that packed weights go where the server looks for them."""
    seen: dict[str, object] = {}

    class Spy(LLM):
        def __init__(self, model: str, **settings: Any) -> None:
            seen.update(settings)
            super().__init__(model, **settings)

    monkeypatch.setattr("nestling.cli.model.LLM", Spy)
    monkeypatch.setattr("nestling.cli.model.show_notices", lambda: None)
    settings = load_settings({"data_dir": tmp_path, "dtype": "q8", "threads": 1})
    assert "nestling-nano: loads in" in _model(settings)
    packed_dir = str(tmp_path / "packed")
    by_settings = {"engine": "native", "dtype": "q8", "threads": 1, "packed_dir": packed_dir}
    assert {name: seen[name] for name in by_settings} == by_settings
