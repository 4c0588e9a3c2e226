"""Standard streams in every state: exit code, one line, and nothing lost or made in vain."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Call, Terminal, run, shell
from tests.e2e.conftest import nestling

CREATE = "nestling keys create --name x"


def write_model(data_dir: Path, name: str) -> Path:
    """Put something with a name, that is no model, where models are looked for."""
    path = data_dir / "models" / f"{name}.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    return path


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "ascii:strict"])
def test_an_encoding_that_lacks_characters_loses_nothing(tmp_path: Path, encoding: str) -> None:
    write_model(tmp_path / "data", "é你🦊")
    done = run("models", env={"PYTHONIOENCODING": encoding})
    e = "é" if encoding == "cp1252" else r"\xe9"
    assert done.returncode == 0, done.stderr
    assert rf"{e}\u4f60\U0001f98a".encode("cp1252") in done.stdout
    as_json = run("models", "--json", env={"PYTHONIOENCODING": encoding})
    assert json.loads(as_json.stdout)[0]["id"] == "é你🦊"


def test_an_error_in_a_poor_encoding() -> None:
    done = run("chat", "Hi", "--model", "你", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert rb"Model '\u4f60' is neither" in done.stderr


@pytest.mark.parametrize(
    ("command", "target", "reason"),
    [
        ("nestling models", ">/dev/full", "No space left on device"),
        ("nestling --help", ">/dev/full", "No space left on device"),
        ("nestling chat Hi", ">/dev/full", "No space left on device"),
        ("nestling models --json", ">&-", "it is closed"),
        ("nestling chat Hi", ">&-", "it is closed"),
    ],
)
def test_output_that_cannot_be_written(command: str, target: str, reason: str) -> None:
    done = shell(f"{command} {target}")
    assert done.returncode == 1
    assert done.stderr == f"nestling: standard output cannot be written: {reason}\n"


def test_a_reader_that_has_enough() -> None:
    """As `head` does: nothing is said, and the exit code is that of failed work."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            nestling("models"), stdout=pipe, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("closed", ["<&- 2>&-", "2>/dev/full"])
def test_other_streams_may_be_missing(closed: str) -> None:
    done = shell(f"nestling chat Hi --temperature 0 {closed}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Hello! How can I help you?\n"


def test_an_error_that_nobody_can_read_keeps_its_exit_code() -> None:
    for closed in ("2>&-", "2>/dev/full", "<&- >&- 2>&-"):
        assert shell(f"nestling chat Hi --model no-such-model {closed}").returncode == 2


def test_a_missing_input_is_an_empty_prompt() -> None:
    done = shell("nestling chat <&-")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nestling: The prompt is empty. Expected some text.\n"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (">/dev/full", "No space left on device"),
        (">&-", "it is closed"),
        ("--json >/dev/full", "No space left on device"),
    ],
)
def test_no_key_is_made_that_nobody_has_seen(call: Call, target: str, reason: str) -> None:
    done = shell(f"{CREATE} {target}")
    assert done.returncode == 1
    said = f"standard output cannot be written: {reason}; no key was made"
    assert done.stderr == f"nestling: {said}\n"
    assert call("keys", "list", "--json").out == "[]\n"


def test_a_key_that_can_be_shown_is_made_without_the_other_streams(call: Call) -> None:
    done = shell(f"{CREATE} <&- 2>&-")
    assert done.stdout.startswith("g3n_live_")
    assert len(json.loads(call("keys", "list", "--json").out)) == 1


def test_names_of_files_do_not_steer_the_terminal(tmp_path: Path, call: Call) -> None:
    path = write_model(tmp_path / "data", "a\x1b[2Jb\nc\x9d")
    done = call("models")
    assert r"a\x1b[2Jb\nc\x9d" in done.out
    assert "\x1b" not in done.out + done.err
    assert json.loads(call("models", "--json").out)[0]["path"] == str(path)
    refused = call("chat", "Hi", "--model", str(path))
    assert refused.exit_code == 2
    assert r"a\x1b[2Jb\nc\x9d.gguf" in refused.err
    assert refused.err.count("\n") == 1


def test_a_name_that_is_not_utf_8_is_shown(tmp_path: Path) -> None:
    write_model(tmp_path / "data", b"a\xe9".decode("utf-8", "surrogateescape"))
    done = run("models")
    assert done.returncode == 0, done.stderr
    assert rb"a\udce9" in done.stdout


@pytest.mark.parametrize("columns", ["0", "1", "40", "x"])
def test_any_width_shows_the_help(
    call: Call, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    done = call("keys", "create", "--help")
    assert done.exit_code == 0
    assert "--expires-days" in done.out


def test_a_narrow_terminal_gets_a_block_for_each_row() -> None:
    wide, narrow = Terminal("models", columns=200), Terminal("models", columns=40)
    assert "MODEL          PARAMETERS" in wide.rest()
    assert "MODEL       nestling-nano\r\nPARAMETERS  3,572,128\r\n" in narrow.rest()
    assert wide.exit_code() == narrow.exit_code() == 0
