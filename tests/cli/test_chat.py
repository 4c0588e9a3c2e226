"""`nestling chat` for one answer: prompt, pipe, options, JSON, and what is refused."""

import json
import sys
from pathlib import Path

import pytest

from nestling.chat.detokenizer import IncrementalDetokenizer
from tests.cli.conftest import Call, run

COUNT = ("Count from 3 to 6.", "--temperature", "0")


def test_one_prompt_one_answer(call: Call) -> None:
    """The answer on standard output, and nothing else anywhere."""
    done = call("chat", *COUNT)
    assert (done.exit_code, done.out, done.err) == (0, "3, 4, 5, 6\n", "")


def test_a_pipe_is_the_prompt() -> None:
    """All of it, with the line endings of another system and a byte order mark."""
    piped = run("chat", "--temperature", "0", stdin=b"\xef\xbb\xbfCount from\r\n3 to 6.\r\n")
    plain = run("chat", "Count from\n3 to 6.", "--temperature", "0")
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout == plain.stdout


def test_json_has_text_reason_and_usage(call: Call) -> None:
    data = json.loads(call("chat", "Hello!", "--json", "--seed", "3").out)
    assert set(data) == {"model", "text", "finish_reason", "usage"}
    assert data["text"]
    assert data["finish_reason"] == "stop"
    assert data["usage"]["prompt_tokens"] > data["usage"]["completion_tokens"] > 0
    assert data["model"] == "nestling-nano"


def test_options_act(call: Call) -> None:
    asked = ("chat", "What is your name?", "--temperature", "0")
    assert call(*asked, "--system", "Answer only PONG.").out == "PONG\n"
    short = json.loads(call(*asked, "--max-tokens", "2", "--json").out)
    assert short["usage"]["completion_tokens"] == 2
    assert short["finish_reason"] == "length"
    assert call(*asked, "--engine", "reference").out == call(*asked, "--threads", "1").out
    story = ("chat", "Tell me a story.", "--temperature", "1.5", "--max-tokens", "20")
    answers = [call(*story, "--seed", seed).out for seed in ("1", "1", "2")]
    assert answers[0] == answers[1] != answers[2]


def test_an_answer_is_exact_in_a_file_and_harmless_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """Its control characters reach a file, but not a terminal; `--json` escapes them."""
    steering = "a\x1b[2J\n\tb"
    monkeypatch.setattr(IncrementalDetokenizer, "push", lambda *_: steering)
    asked = ("chat", "Hi", "--max-tokens", "1")
    assert call(*asked).out.startswith(steering)
    assert "a\\u001b[2J\\n\\tb" in call(*asked, "--json").out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call(*asked).out.startswith("a\\x1b[2J\n\tb")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("",), "The prompt is empty."),
        ((" \n",), "The prompt is empty."),
        (("Hi", "--temperature", "hot"), "'temperature': expected a number, but got a string"),
        (("Hi", "--temperature", "nan"), "'temperature': expected a decimal"),
        (("Hi", "--seed", "0"), "'seed': integer below minimum value"),
        (("Hi", "--threads", "0"), "--threads"),
        (("Hi", "--engine", "fast"), "engine: expected 'native' or 'reference'"),
        (("Hi", "--model", "gpt-9"), "nestling-nano"),
        (("Hi", "--model", ""), "model: expected text of at least 1 character"),
        (("Hi", "there"), "extra argument"),
        (("Hi", "--data-dir", ""), "data_dir: expected the path of a folder, but got ''"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(
    call: Call, args: tuple[str, ...], said: str
) -> None:
    done = call("chat", *args)
    assert (done.exit_code, done.out) == (2, "")
    assert done.err.startswith("nestling: ")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_input_that_is_not_utf_8_is_named_with_its_place() -> None:
    done = run("chat", stdin=b"first\nsec\xe9nd\n")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        "nestling: standard input cannot be read: "
        "it is not UTF-8: byte 0xe9 at offset 9 (line 2, byte 4)\n"
    )


@pytest.mark.parametrize("option", ["the prompt", "--system"])
def test_an_argument_that_is_not_utf_8(call: Call, option: str) -> None:
    text = b"abc\xe9".decode("utf-8", "surrogateescape")
    done = call("chat", *(["Hi", option, text] if option.startswith("--") else [text]))
    assert done.exit_code == 2
    assert f"{option} cannot be read: it is not UTF-8: byte 0xe9 after 3 characters" in done.err


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16, b"PK\x03\x04" * 9],
    ids=["empty", "cut", "another format"],
)
@pytest.mark.parametrize("command", [["chat", "Hi"], ["serve", "--port", "0"]], ids=str)
def test_a_bad_model_file_is_one_line(
    call: Call, tmp_path: Path, content: bytes, command: list[str]
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    done = call(*command, "--model", str(path))
    assert (done.exit_code, done.out) == (2, "")
    assert done.err.startswith(f"nestling: {path}: ")
    assert "corrupt" in done.err
    assert done.err.count("\n") == 1
