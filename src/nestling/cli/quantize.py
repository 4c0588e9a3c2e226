"""`nestling quantize`: a model as one smaller GGUF file."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nestling.cli.options import AsJson, Threads, command_line
from nestling.cli.output import print_json, print_text
from nestling.cli.progress import ProgressBar
from nestling.engine.runners.cores import num_usable_cores
from nestling.errors import InvalidRequestError
from nestling.native.system import ThreadPool
from nestling.plain_text import escape_line
from nestling.weights.checkpoint import load_checkpoint
from nestling.weights.quantize import quantize_checkpoint


class _Type(StrEnum):
    Q4_0 = "q4_0"
    Q8_0 = "q8_0"


app = command_line()


@app.command()
def quantize(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A Hugging Face folder or a GGUF file.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The GGUF file to write.")],
    type_: Annotated[
        _Type, typer.Option("--type", help="Type of the large matrices.")
    ] = _Type.Q4_0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace OUT if it is there already.")
    ] = False,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Write a model as one smaller GGUF file.

    OUT gets 4-bit or 8-bit weights that Nestling and llama.cpp can read.
    """
    if out.exists() and not (force and out.is_file()):
        expected = "expected the name of a new file" + ("" if out.is_dir() else ", or --force")
        raise InvalidRequestError(f"{out} is already there; {expected}", param="out")
    checkpoint = load_checkpoint(source)
    pool = ThreadPool(threads or num_usable_cores())
    with ProgressBar("quantizing") as bar:
        report = quantize_checkpoint(checkpoint, out, type_.value.upper(), pool, bar.update)
    if as_json:
        print_json(
            {
                "source": str(source),
                "path": str(report.path),
                "type": type_.value,
                "num_bytes": report.num_bytes,
                "num_tensors": report.num_tensors,
            }
        )
        return
    counts = ", ".join(f"{count} {dtype}" for dtype, count in report.num_tensors.items())
    print_text(
        f"{escape_line(str(report.path))}: {report.num_bytes / 2**20:,.1f} MiB; tensors: {counts}"
    )
