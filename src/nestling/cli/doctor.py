"""`nestling doctor`: checks that this machine can run Nestling, one line a check."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import typer

from nestling.cli.options import AsJson, DataDir, Model, command_line
from nestling.cli.output import print_json, print_text
from nestling.errors import NestlingError
from nestling.plain_text import escape_line
from nestling.settings import Settings, load_settings

NUM_PROBE_TOKENS = 32
"""Tokens generated to measure the speed: under a second on the demo model."""


@dataclass(frozen=True)
class Check:
    """One finding: the thing looked at, whether it is good, and what was seen or should be done."""

    name: str
    is_good: bool
    detail: str


app = command_line()


@app.command()
def doctor(data_dir: DataDir = None, model: Model = None, as_json: AsJson = False) -> None:
    """Check that this machine can run Nestling.

    Python, processor, memory, data directory, port and model are looked at. If one of them is not
    good, the exit code is 1.
    """
    settings = load_settings({"data_dir": data_dir, "model": model})
    checks = [
        _run("python", lambda: f"{platform.python_version()} ({sys.executable})"),
        _run("processor", _processor),
        _run("memory", _memory),
        _run("data directory", lambda: _data_directory(settings.data_dir)),
        _run("port", lambda: _port(settings)),
        _run("model", lambda: _model(settings)),
    ]
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = "ok  " if check.is_good else "FAIL"
            print_text(f"{mark}  {check.name.ljust(width)}  {escape_line(check.detail)}")
    if not all(check.is_good for check in checks):
        raise typer.Exit(1)


def _run(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (NestlingError, OSError) as error:
        return Check(name, False, str(error))


def _processor() -> str:
    from nestling.native.system import instruction_set

    return f"{os.cpu_count()} cores, {platform.machine()}, kernels: {instruction_set()}"


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free"


def _data_directory(data_dir: Path) -> str:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise OSError(f"{data_dir} cannot be written; choose another with --data-dir")
    return f"{data_dir}, {shutil.disk_usage(data_dir).free / 2**30:.1f} GiB free on its disk"


def _port(settings: Settings) -> str:
    from nestling.server.listening import listen

    for listener in listen(settings.host, settings.port):
        listener.close()
    return f"{settings.port} is free at {settings.host}"


def _model(settings: Settings) -> str:
    from nestling.cli.model import open_model
    from nestling.engine.clients.messages import SamplingParams
    from nestling.weights.catalog import find_model

    entry = find_model(settings.model, settings.data_dir)
    start = perf_counter()
    with open_model(entry.path, settings) as llm:
        loaded = perf_counter()
        params = SamplingParams(max_tokens=NUM_PROBE_TOKENS, temperature=0.0)
        output: Any = llm.generate([llm.tokenizer.bos_token_id], params, ignore_eos=True)
        rate = len(output.token_ids) / (perf_counter() - loaded)
    return f"{entry.model_id}: loads in {loaded - start:.2f} s, {rate:.0f} tokens/s"
