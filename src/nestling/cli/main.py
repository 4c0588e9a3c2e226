"""The `nestling` command: one file a command, and the one place where errors become exit codes.

Exit codes: 0 done; 1 the work failed; 2 bad arguments, settings or model file; 130 interrupted.
"""

import sys

import click
import typer

from nestling.cli import chat, doctor, keys, models, serve
from nestling.errors import NestlingError

app = typer.Typer(
    name="nestling",
    help="Gemma 3n on your own machine, behind the API that its users already call.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("chat")(chat.chat)
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)
app.add_typer(keys.app, name="keys")


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
        code = app(standalone_mode=False)
    except NestlingError as error:
        _fail(error.message, error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nothing is left to say
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, exit_code: int) -> None:
    print(f"nestling: {message}", file=sys.stderr)
    sys.exit(exit_code)
