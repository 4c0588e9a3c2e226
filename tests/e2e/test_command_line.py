"""`nestling chat`, `models` and `doctor` as a user types them."""

import json
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from nestling.cli.doctor import _model
from nestling.llm import LLM
from nestling.settings import load_settings
from tests.e2e.conftest import nestling


def run(*args: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `nestling ARGS` to its end with this standard input."""
    return subprocess.run(
        nestling(*args), input=stdin, capture_output=True, text=True, timeout=60, cwd=cwd
    )


def test_one_shot_chat() -> None:
    """One prompt, one answer on standard output, nothing else."""
    done = run("chat", "Count from 3 to 6.", "--temperature", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("3")
    assert done.stderr == ""


def test_chat_reads_a_pipe() -> None:
    """Without a prompt the whole standard input is the prompt."""
    piped = run("chat", "--temperature", "0", stdin="Count from 3 to 6.\n")
    assert piped.stdout == run("chat", "Count from 3 to 6.", "--temperature", "0").stdout


def test_chat_as_json() -> None:
    """`--json` gives text, reason and usage as one object."""
    data = json.loads(run("chat", "Hello!", "--json", "--seed", "3").stdout)
    assert data["text"]
    assert data["finish_reason"] == "stop"
    assert data["usage"]["prompt_tokens"] > 0
    assert data["model"] == "nestling-nano"


def test_chat_obeys_the_system_option() -> None:
    """`--system` reaches the model."""
    done = run("chat", "What is your name?", "--system", "Answer only PONG.", "--temperature", "0")
    assert done.stdout.strip() == "PONG"


class Terminal:
    """`nestling ARGS` on a pseudo terminal."""

    def __init__(self, *args: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "dumb"
            os.execv(nestling()[0], nestling(*args))  # noqa: S606 - our own program
        self.seen = ""

    def expect(self, pattern: str, timeout_s: float = 30) -> str:
        """Read until the pattern appears in what came since the last match; returns that text."""
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                pytest.fail(f"no {pattern!r} in {self.seen!r}")
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                data = b""
            if not data:
                pytest.fail(f"ended without {pattern!r}: {self.seen!r}")
            self.seen += data.decode(errors="replace")
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def send(self, line: str) -> None:
        """Type a line."""
        os.write(self.fd, line.encode() + b"\n")

    def exit_code(self) -> int:
        """Wait for the end."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_repl_remembers_and_obeys_commands() -> None:
    """History, /system, /set, /stats, an unknown command, /quit."""
    terminal = Terminal("chat", "--temperature", "0")
    terminal.expect("> ")
    terminal.send("My name is Anna.")
    terminal.expect("\n> ")
    terminal.send("What is my name?")
    assert "Anna" in terminal.expect("\n> ")
    terminal.send("/system Answer only PONG.")
    terminal.expect("\n> ")
    terminal.send("/clear")
    terminal.expect("\n> ")
    terminal.send("What is your name?")
    assert "PONG" in terminal.expect("\n> ")
    terminal.send("/set temperature 0.5")
    assert "0.5" in terminal.expect("\n> ")
    terminal.send("/set temperature hot")
    assert "temperature" in terminal.expect("\n> ")
    terminal.send("/stats")
    assert "tokens/s" in terminal.expect("\n> ")
    terminal.send("/nonsense")
    assert "/help" in terminal.expect("\n> ")
    terminal.send("/quit")
    assert terminal.exit_code() == 0


def test_models_lists_the_embedded_one(tmp_path: Path) -> None:
    """Name, size and path for people and for programs."""
    rows = json.loads(run("models", "--json", "--data-dir", str(tmp_path)).stdout)
    assert [row["id"] for row in rows] == ["nestling-nano"]
    assert rows[0]["parameters"] > 1_000_000
    assert "nestling-nano" in run("models", "--data-dir", str(tmp_path)).stdout


def test_doctor_finds_this_machine_good(tmp_path: Path) -> None:
    """Every check passes and is named."""
    done = run("doctor", "--json", "--data-dir", str(tmp_path))
    checks = json.loads(done.stdout)
    assert done.returncode == 0, checks
    assert {"python", "processor", "memory", "data directory", "port", "model"} == {
        check["name"] for check in checks
    }


def test_doctor_loads_the_model_as_the_server_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the settings, so that packed weights go where the server looks for them."""
    seen: dict[str, object] = {}

    class Spy(LLM):
        def __init__(self, model: str, **settings: Any) -> None:
            seen.update(settings)
            super().__init__(model, **settings)

    monkeypatch.setattr("nestling.llm.LLM", Spy)
    monkeypatch.setattr("nestling.weights.packed_store.show_notices", lambda: None)
    settings = load_settings({"data_dir": tmp_path, "dtype": "q8", "threads": 1})
    assert "nestling-nano: loads in" in _model(settings)
    packed_dir = str(tmp_path / "packed")
    assert seen == {"engine": "native", "dtype": "q8", "threads": 1, "packed_dir": packed_dir}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "corrupt"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 16, "corrupt"),
        (b"PK\x03\x04" * 9, "corrupt"),
    ],
)
def test_bad_model_file_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    """A broken file stops `serve` and `chat` with exit code 2 and one line that names it."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    for args in (["chat", "Hi"], ["serve", "--port", "0"]):
        done = run(*args, "--model", str(path), "--data-dir", str(tmp_path / "data"))
        assert done.returncode == 2, done.stderr
        assert str(path) in done.stderr
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "Traceback" not in done.stderr


def test_unknown_model_lists_what_there_is(tmp_path: Path) -> None:
    """A name that is neither a model nor a path."""
    done = run("chat", "Hi", "--model", "gpt-9", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "nestling-nano" in done.stderr


def test_days_beyond_the_calendar_are_refused(tmp_path: Path) -> None:
    """A key's life has an upper bound, so that its end is a date."""
    base = ("keys", "create", "--name", "x", "--data-dir", str(tmp_path), "--expires-days")
    refused = run(*base, "99999999")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--expires-days" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert run(*base, "36500").stdout.startswith("g3n_live_")
