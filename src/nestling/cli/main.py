"""The `nestling` command: one file a command, and the one place where errors become exit codes.

Exit codes: 0 done; 1 the work failed; 2 bad arguments, settings or model file; 130 interrupted.
"""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from nestling.errors import NestlingError

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


app = typer.Typer(
    name="nestling",
    cls=_Commands,
    help="Gemma 3n on your own machine, behind the API that its users already call.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
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

        typer.echo(f"nestling {__version__}")
        ctx.exit()


def main() -> None:
    """Run the command line; never shows a traceback for bad input."""
    try:
        app()
    except NestlingError as error:
        _fail(error.message, error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nothing is left to say
        sys.exit(1)


def _fail(message: str, exit_code: int) -> None:
    print(f"nestling: {message}", file=sys.stderr)
    sys.exit(exit_code)
