"""The `nestling` command: one file a command, and the one place where errors become exit codes.

Exit codes: 0 done; 1 the work failed; 2 bad arguments, settings or model file; 130 interrupted.
"""

import sys
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from nestling.cli.options import command_line, show_help_alone
from nestling.cli.output import print_text
from nestling.cli.streams import OutputError, open_streams
from nestling.errors import NestlingError
from nestling.plain_text import escape_line

COMMANDS = ("serve", "chat", "keys", "models", "quantize", "bench", "doctor")


class _Commands(TyperGroup):
    """Imports the module of a command only when it is used, so that each starts quickly."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the library's signature
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = get_command(import_module(f"nestling.cli.{cmd_name}").app)
        command.name = cmd_name
        return command


app = command_line(
    name="nestling",
    cls=_Commands,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Gemma 3n on your own machine, behind the API that its users already call."""
    if version:
        from nestling import __version__

        print_text(f"nestling {__version__}")
        ctx.exit()
    show_help_alone(ctx)


def main() -> None:
    """Run the command line; never shows a traceback for bad input or bad surroundings."""
    open_streams()
    try:
        exit_code = app(prog_name="nestling", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        _fail(_usage_message(error), error.exit_code)
    except OutputError as error:
        if error.is_broken_pipe:  # the reader has what it wanted, as `head` does
            sys.exit(error.exit_code)
        _fail(error.message, error.exit_code)
    except NestlingError as error:
        _fail(error.message, error.exit_code)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(exit_code)


def _usage_message(error: typer.TyperException) -> str:
    """Return what is wrong with the arguments, and where they are explained."""
    context = getattr(error, "ctx", None)
    hint = f" See {context.command_path} --help." if context else ""
    return f"{error.format_message().rstrip('.')}.{hint}"


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"nestling: {escape_line(message)}", file=sys.stderr)
    sys.exit(exit_code)
