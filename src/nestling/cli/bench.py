"""`nestling bench`: speed and memory of the engine on one model; `bench/` does the work."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from nestling.bench.curves import draw
from nestling.bench.plan import NUM_RUNS, BenchPlan, parse_batch, parse_count
from nestling.bench.report import profile_rows, result_rows
from nestling.bench.runs import run_bench, run_curves
from nestling.cli.options import AsJson, DataDir, Model, Threads, command_line
from nestling.cli.output import print_json, print_table, print_text
from nestling.engine.runners.cores import num_usable_cores
from nestling.errors import SettingsError
from nestling.settings import load_settings
from nestling.weights.catalog import find_model
from nestling.weights.checkpoint import load_checkpoint

app = command_line()


@app.command()
def bench(
    model: Model = None,
    threads: Threads = None,
    prompt: Annotated[
        str, typer.Option(metavar="NUMBER", help="Tokens of the prompt that is timed.")
    ] = "512",
    generate: Annotated[
        str, typer.Option(metavar="NUMBER", help="Decode steps that are timed.")
    ] = "32",
    batch: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS", help="Numbers of sequences that decode together, each 1 to 64."
        ),
    ] = "1,4,16",
    context: Annotated[
        str, typer.Option(metavar="NUMBER", help="Tokens of each sequence before it decodes.")
    ] = "16",
    memory_context: Annotated[
        str, typer.Option(metavar="NUMBER", help="Tokens of context at which memory is read.")
    ] = "4096",
    runs: Annotated[
        str, typer.Option(metavar="NUMBER", help="Fresh processes to take medians of.")
    ] = str(NUM_RUNS),
    off: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="An optimisation to switch off. May be repeated."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the time of a step goes.")
    ] = False,
    curves: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Draw curves as SVG into this folder; takes minutes."),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Measure speed and memory on this machine.

    The figures of prefill, decoding, start and memory are medians of several fresh processes.
    """
    settings = load_settings({"data_dir": data_dir, "model": model, "threads": threads})
    entry = find_model(settings.model, settings.data_dir)
    plan = BenchPlan(
        model=str(entry.path),
        threads=settings.threads or num_usable_cores(),
        prompt=parse_count("prompt", prompt),
        generate=parse_count("generate", generate),
        batch=parse_batch(batch),
        context=parse_count("context", context),
        memory_context=parse_count("memory-context", memory_context),
        runs=parse_count("runs", runs),
        packed_dir=settings.packed_dir,
        switches_off=tuple(off or ()),
    )
    plan = plan.fitted(load_checkpoint(Path(plan.model)).config.max_position_embeddings)
    if curves is not None and not curves.is_dir():
        raise SettingsError(f"curves: expected a folder, got {str(curves)!r}", param="curves")
    result = run_bench(plan, with_profile=profile, on_progress=_show_progress)
    if curves is not None:
        _show_progress("curves")
        machine = f"{result.instruction_set}, {result.threads} threads, commit {result.commit}"
        draw(run_curves(plan), curves, entry.model_id, machine)
    if as_json:
        print_json(msgspec.to_builtins(result, str_keys=True))
        return
    print_table(("what", "figure"), result_rows(entry.model_id, plan, result))
    if profile:
        print_text()
        print_table(*profile_rows(result.profile))


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
