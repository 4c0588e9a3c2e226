"""`nestling quantize`: a model as one smaller GGUF file."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nestling.cli.options import AsJson, Threads
from nestling.cli.output import print_json
from nestling.engine.runners.cores import num_usable_cores
from nestling.errors import InvalidRequestError
from nestling.native.threads import ThreadPool
from nestling.weights.checkpoint import load_checkpoint
from nestling.weights.quantize import quantize_checkpoint


class _Type(StrEnum):
    Q4_0 = "q4_0"
    Q8_0 = "q8_0"


app = typer.Typer(add_completion=False)


@app.command()
def quantize(
    source: Annotated[Path, typer.Argument(help="A Hugging Face folder or a GGUF file.")],
    out: Annotated[Path, typer.Argument(help="The GGUF file to write.")],
    type_: Annotated[_Type, typer.Option("--type", help="Of the large matrices.")] = _Type.Q4_0,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Write SOURCE as one GGUF file with 4-bit or 8-bit weights, for Nestling and llama.cpp."""
    if out.exists() and not (force and out.is_file()):
        expected = "expected the name of a new file" + ("" if out.is_dir() else ", or --force")
        raise InvalidRequestError(f"{out} is already there; {expected}", param="out")
    checkpoint = load_checkpoint(source)
    pool = ThreadPool(threads or num_usable_cores())
    report = quantize_checkpoint(checkpoint, out, type_.value.upper(), pool, _show_progress)
    if sys.stderr.isatty():
        print(file=sys.stderr)
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
    typer.echo(f"{report.path}: {report.num_bytes / 2**20:,.1f} MiB; tensors: {counts}")


def _show_progress(num_done: int, num_total: int) -> None:
    if sys.stderr.isatty():
        text = f"{num_done / 2**20:,.0f} of {num_total / 2**20:,.0f} MiB"
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
