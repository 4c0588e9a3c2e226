"""The conversation of `nestling chat` on a pseudo terminal, as a person types and pastes it."""

import os
import pty
import subprocess
from pathlib import Path

from tests.cli.conftest import Terminal
from tests.e2e.conftest import nestling

NEXT = r"\r\n(\x1b\[\?2004[hl])*> "
"""The prompt after an answer; readline switches bracketed paste on as it asks."""
PASTE_BEGIN, PASTE_END = "\x1b[200~", "\x1b[201~"


def start(*args: str, term: str = "xterm") -> Terminal:
    terminal = Terminal("chat", "--temperature", "0", *args, term=term)
    terminal.expect("> ")
    return terminal


def stop(terminal: Terminal) -> None:
    terminal.send("/quit")
    terminal.rest()
    assert terminal.exit_code() == 0


def test_it_remembers_and_obeys_commands() -> None:
    terminal = start(term="dumb")
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
    assert "Invalid type for 'temperature'" in terminal.expect("\n> ")
    terminal.send("/stats")
    assert "tokens/s" in terminal.expect("\n> ")
    terminal.send("/nonsense")
    assert "/help" in terminal.expect("\n> ")
    terminal.send("/help")
    shown = terminal.expect("\n> ")
    assert all(word in shown for word in ("/system", '"""', "//", "Ctrl-C", "pasted"))
    stop(terminal)


def test_a_pasted_text_is_one_message() -> None:
    """Its lines, even those that begin with a slash, are no messages or commands of their own."""
    terminal = start()
    terminal.send(f"{PASTE_BEGIN}Hello!\n/quit\n> What is 2 plus 3?{PASTE_END}")
    terminal.expect(NEXT)
    terminal.send("/stats")
    pasted = terminal.expect(NEXT)
    terminal.send("/clear")
    terminal.expect(NEXT)
    terminal.send('"""Hello!')
    terminal.expect(r"\. ")
    terminal.send("/quit")
    terminal.expect(r"\. ")
    terminal.send('> What is 2 plus 3?"""')
    terminal.expect(NEXT)
    terminal.send("/stats")
    fenced = terminal.expect(NEXT)
    assert num_prompt_tokens(pasted) == num_prompt_tokens(fenced) > 15
    stop(terminal)


def num_prompt_tokens(shown: str) -> int:
    return int(shown.partition(" prompt tokens")[0].split()[-1].rpartition("\n")[2])


def test_a_message_may_begin_with_a_slash() -> None:
    """Two slashes are sent as one."""
    terminal = start()
    terminal.send("//quit")
    assert "There is no" not in terminal.expect(NEXT)
    terminal.send("/stats")
    assert "prompt tokens" in terminal.expect(NEXT)
    stop(terminal)


def test_the_end_of_input_leaves() -> None:
    terminal = start()
    terminal.send("\x04", end="")
    terminal.rest()
    assert terminal.exit_code() == 0


def test_ctrl_c_abandons_a_line_and_stops_an_answer() -> None:
    terminal = start("--max-tokens", "1500", "--temperature", "1.9")
    terminal.send("half a line", end="\x03")
    terminal.expect(NEXT)
    terminal.send("Tell me a story.")
    terminal.expect(r"story\.\r\n.*\w+ \w+ ")
    terminal.send("\x03", end="")
    terminal.expect(NEXT)
    stop(terminal)


def test_a_file_gets_the_answers_and_the_terminal_the_rest(tmp_path: Path) -> None:
    """`nestling chat > file`, typed into by a person."""
    ours, theirs = pty.openpty()
    path = tmp_path / "answers.txt"
    with path.open("wb") as file:
        process = subprocess.Popen(
            nestling("chat", "--temperature", "0"), stdin=theirs, stdout=file, stderr=theirs
        )
    os.close(theirs)
    os.write(ours, b"Count from 3 to 6.\n/stats\ncaf\xe9\n/quit\n")
    assert process.wait(timeout=60) == 0
    shown = os.read(ours, 65536).decode(errors="replace")
    os.close(ours)
    assert path.read_text() == "3, 4, 5, 6\n"
    assert "the message cannot be read: it is not UTF-8: byte 0xe9 after 3 characters" in shown
    assert "prompt tokens" in shown
    assert "/help lists the commands" in shown


def test_json_needs_a_prompt() -> None:
    terminal = Terminal("chat", "--json")
    assert "--json: expected a prompt" in terminal.rest()
    assert terminal.exit_code() == 2
