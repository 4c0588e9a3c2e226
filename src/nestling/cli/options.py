"""Command-line options that several commands share, each declared once."""

from pathlib import Path
from typing import Annotated

import typer

from nestling.native.threads import MAX_THREADS

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where keys and models live. Default: the user data folder."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Name or path of a model. Default: the first one `nestling models` lists.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=MAX_THREADS,
        help="Threads of the engine. Default: all usable physical cores.",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option("--engine", help="native (the C++ core) or reference (numpy). Default: native."),
]
