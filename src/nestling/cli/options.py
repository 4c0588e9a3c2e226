"""Declares what several commands share: the form of a command line, and each option once."""

from typing import Annotated, Any

import typer

from nestling.native.system import MAX_THREADS

DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        metavar="FOLDER",
        help="Folder of keys, models and packed weights. Default: the user's data folder.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Name or path of a model. Default: the first that `nestling models` lists.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="NUMBER",
        min=1,
        max=MAX_THREADS,
        help="Threads that compute. Default: one for each usable physical core.",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="native (the C++ core) or reference (slow numpy). Default: native.",
    ),
]


def command_line(**settings: Any) -> typer.Typer:
    """Return an empty command line whose help is plain text, on terminals of any width."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, **settings)


def show_help_alone(ctx: typer.Context) -> None:
    """Print the help of a group of commands and end with exit code 2 if no command was named."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit(2)
