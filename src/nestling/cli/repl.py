"""The conversation of `nestling chat` in a terminal: prompt, streamed answers, slash commands."""

import sys
from collections.abc import Callable
from contextlib import suppress

from nestling.cli.session import SETTABLE, Session
from nestling.errors import NestlingError

PROMPT = "> "


class _Quit(Exception):  # noqa: N818 - a signal to the loop, not an error
    """Raised by /quit."""


def converse(session: Session, model_id: str) -> None:
    """Read lines until /quit or the end of input; Ctrl-C stops an answer, not the conversation."""
    with suppress(ImportError):
        import readline  # noqa: F401 - its import gives `input` history and editing
    print(f"{model_id}. /help lists the commands, /quit or Ctrl-D leaves.")
    while True:
        try:
            line = input(PROMPT).strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        try:
            if line.startswith("/"):
                _command(session, line)
            elif line:
                _answer(session, line)
        except _Quit:
            return
        except NestlingError as error:
            print(error.message)


def _answer(session: Session, text: str) -> None:
    try:
        for delta in session.ask(text):
            sys.stdout.write(delta.text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stdout.write(" [stopped]")
    sys.stdout.write("\n")


def _command(session: Session, line: str) -> None:
    name, _, rest = line[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        print(f"There is no /{name}. /help lists the commands.")
        return
    command[0](session, rest.strip())


def _help(_session: Session, _rest: str) -> None:
    for name, (_, usage) in COMMANDS.items():
        print(f"/{name} {usage}")


def _system(session: Session, rest: str) -> None:
    session.system = rest
    print("System message set." if rest else "System message removed.")


def _set(session: Session, rest: str) -> None:
    name, _, value = rest.partition(" ")
    if name:
        session.set(name, value.strip())
    shown = [name] if name else SETTABLE
    print(", ".join(f"{key} = {getattr(session.params, key)}" for key in shown))


def _stats(session: Session, _rest: str) -> None:
    print(session.stats() if session.num_tokens else "Nothing was asked yet.")


def _clear(session: Session, _rest: str) -> None:
    session.history.clear()
    print("The conversation starts anew.")


def _quit(_session: Session, _rest: str) -> None:
    raise _Quit


COMMANDS: dict[str, tuple[Callable[[Session, str], None], str]] = {
    "help": (_help, "lists the commands"),
    "system": (_system, "TEXT sets the system message; without TEXT removes it"),
    "set": (_set, f"NAME VALUE changes a parameter ({', '.join(SETTABLE)}); alone shows them"),
    "stats": (_stats, "shows the speed of the last answer"),
    "clear": (_clear, "forgets the conversation"),
    "quit": (_quit, "leaves"),
}
"""What a line that starts with a slash may be: what it does and what /help says."""
