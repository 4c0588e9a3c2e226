"""Holds the conversation of `nestling chat`: prompt, streamed answers, slash commands.

Answers go to standard output; everything else that is shown goes to stderr, so that
`nestling chat > file` keeps nothing but the answers.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from nestling.cli.output import print_notice, write_answer
from nestling.cli.session import SETTABLE, Session, checked_text
from nestling.cli.streams import OutputError
from nestling.errors import NestlingError

PROMPT = "> "
CONTINUATION = ". "
FENCE = '"""'


class _Quit(Exception):  # noqa: N818 - a signal to the loop, not an error
    """Raised by /quit."""


def converse(session: Session, model_id: str) -> None:
    """Answer messages until /quit or the end of input; Ctrl-C stops an answer and no more."""
    _prepare_editing()
    print_notice(f"{model_id}. /help lists the commands, /quit or Ctrl-D leaves.")
    while True:
        try:
            message = _read_message()
        except EOFError:
            print_notice("")
            return
        except KeyboardInterrupt:
            print_notice("")
            continue
        try:
            if message.startswith("/") and not message.startswith("//") and "\n" not in message:
                _command(session, message)
            elif message:
                _answer(session, message.removeprefix("/"))
        except _Quit:
            return
        except OutputError:
            raise
        except NestlingError as error:
            print_notice(error.message)


def _prepare_editing() -> None:
    """Give `input` a history, editing, and pastes of several lines in one piece."""
    with suppress(ImportError):
        import readline

        if os.environ.get("TERM", "dumb") != "dumb":
            readline.parse_and_bind("set enable-bracketed-paste on")  # Python switches it off


def _read_message() -> str:
    """Return what the person says next: a line, a paste of several, or lines between fences."""
    text = _read_line(PROMPT).strip()
    if not text.startswith(FENCE) or "\n" in text:
        return text
    text = text.removeprefix(FENCE)
    while not text.endswith(FENCE):
        text += "\n" + _read_line(CONTINUATION).rstrip()
    return text.removesuffix(FENCE).strip("\n")


def _read_line(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()


def _answer(session: Session, text: str) -> None:
    is_begun = False
    try:
        for delta in session.ask(checked_text("the message", text)):
            write_answer(delta.text)
            is_begun = True
    except KeyboardInterrupt:
        write_answer(" [stopped]")
        is_begun = True
    finally:
        if is_begun:
            write_answer("\n")


def _command(session: Session, line: str) -> None:
    name, _, rest = line[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        print_notice(
            f"There is no /{name}. /help lists the commands; // begins a message with a slash."
        )
        return
    command[0](session, rest.strip())


def _help(_session: Session, _rest: str) -> None:
    width = max(map(len, COMMANDS))
    for name, (_, usage) in COMMANDS.items():
        print_notice(f"/{name.ljust(width)}  {usage}")
    print_notice(
        f"\nA pasted text is one message. {FENCE} begins and ends a message of several lines.\n"
        "A message that begins with a slash is typed with two: //etc is sent as /etc.\n"
        "Ctrl-C stops an answer."
    )


def _system(session: Session, rest: str) -> None:
    session.system = checked_text("the system message", rest)
    print_notice("System message set." if rest else "System message removed.")


def _set(session: Session, rest: str) -> None:
    name, _, value = rest.partition(" ")
    if name:
        session.set(name, value.strip())
    shown = [name] if name else SETTABLE
    print_notice(", ".join(f"{key} = {getattr(session.params, key)}" for key in shown))


def _stats(session: Session, _rest: str) -> None:
    print_notice(session.stats() if session.num_tokens else "Nothing was asked yet.")


def _clear(session: Session, _rest: str) -> None:
    session.history.clear()
    print_notice("The conversation starts anew.")


def _quit(_session: Session, _rest: str) -> None:
    raise _Quit


COMMANDS: dict[str, tuple[Callable[[Session, str], None], str]] = {
    "help": (_help, "lists the commands."),
    "system": (_system, "TEXT sets the system message; without TEXT it is removed."),
    "set": (_set, f"NAME VALUE changes a parameter; alone it shows them: {', '.join(SETTABLE)}."),
    "stats": (_stats, "shows the speed of the last answer."),
    "clear": (_clear, "forgets the conversation."),
    "quit": (_quit, "leaves."),
}
"""For each word after a slash, the function that obeys it and what /help says."""
