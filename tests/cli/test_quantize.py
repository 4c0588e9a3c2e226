"""`nestling quantize`: the file it writes, what it says, what it refuses."""

import json
import re
from pathlib import Path

import pytest

from nestling.weights.catalog import embedded_model
from tests.cli.conftest import Call, Terminal

SOURCE = str(embedded_model().path)


def test_the_file_answers(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "nano.gguf"
    done = call("quantize", SOURCE, str(out), "--type", "q8_0", "--json")
    assert (done.exit_code, done.err) == (0, "")
    report = json.loads(done.out)
    assert report["path"] == str(out)
    assert report["source"] == SOURCE
    assert report["type"] == "q8_0"
    assert report["num_bytes"] == out.stat().st_size
    assert report["num_tensors"]["Q8_0"] > 10
    asked = ("chat", "What is 2 plus 3?", "--temperature", "0", "--model")
    assert call(*asked, str(out)).out == call(*asked, SOURCE).out


def test_a_file_that_is_there_is_kept_unless_forced(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "nano.gguf"
    out.write_text("mine")
    refused = call("quantize", SOURCE, str(out))
    assert (refused.exit_code, refused.out) == (2, "")
    assert "is already there; expected the name of a new file, or --force" in refused.err
    assert out.read_text() == "mine"
    done = call("quantize", SOURCE, str(out), "--force", "--threads", "1")
    assert done.exit_code == 0
    assert done.out.startswith(f"{out}: ")
    assert "MiB; tensors: " in done.out
    assert call("quantize", SOURCE, str(tmp_path), "--force").exit_code == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((SOURCE, "x.gguf", "--type", "q3"), "'q4_0', 'q8_0'"),
        (("no/such/model", "x.gguf"), "no/such/model"),
        ((SOURCE,), "Missing argument 'OUT'"),
        ((SOURCE, "no/folder/x.gguf"), "no/folder"),
    ],
    ids=["type", "source", "out", "folder"],
)
def test_what_cannot_be_is_one_line(call: Call, args: tuple[str, ...], said: str) -> None:
    done = call("quantize", *args)
    assert done.exit_code in (1, 2)
    assert done.out == ""
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_terminal_sees_the_progress(tmp_path: Path) -> None:
    terminal = Terminal("quantize", SOURCE, str(tmp_path / "nano.gguf"), "--threads", "1")
    shown = terminal.rest()
    assert terminal.exit_code() == 0
    *bars, last = shown.split("\r\x1b[K")
    assert bars[1].startswith("quantizing  [.")
    assert re.search(r"\d of [\d,]+ MiB", bars[1])
    assert last.startswith(str(tmp_path))  # the report, alone on its line
