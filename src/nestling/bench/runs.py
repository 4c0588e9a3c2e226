"""Starts the measuring processes one after the other and takes medians of what they report."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import TypeVar

import msgspec

from nestling.bench.figures import Curves, PhaseTimes, Refusal, Start, Throughput
from nestling.bench.machine import commit
from nestling.bench.plan import BenchPlan
from nestling.errors import EngineError, InvalidRequestError
from nestling.native.system import instruction_set

T = TypeVar("T", bound=msgspec.Struct)


class BenchResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result that `nestling bench --json` prints: medians of the runs, memory of the first."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: dict[int, float]
    """Total tokens a second of all sequences, by their number."""
    first_token_s: float
    """Seconds from the start of a process that loads the model to its first token."""
    load_s: float
    peak_resident_bytes: int
    resident_bytes: int
    read_bandwidth_bytes_per_s: float
    weight_bytes_per_token: int
    prefix_hit_first_token_s: float
    instruction_set: str
    threads: int
    commit: str | None
    profile: dict[str, PhaseTimes] = {}
    """Times of each phase in the last run; empty unless wanted."""


def run_bench(
    plan: BenchPlan, *, with_profile: bool, on_progress: Callable[[str], None]
) -> BenchResult:
    """Measure a plan. Raises EngineError or InvalidRequestError if a process cannot."""
    starts: list[tuple[float, Start]] = []
    found: list[Throughput] = []
    for run in range(plan.runs):
        on_progress(f"run {run + 1} of {plan.runs}: start")
        starts.append(_child("start", plan, Start))
        on_progress(f"run {run + 1} of {plan.runs}: throughput")
        task = "throughput+memory" if run == 0 else "throughput"
        found.append(_child(task, plan, Throughput)[1])
    memory = found[0].memory
    assert memory is not None
    return BenchResult(
        prefill_tokens_per_s=median(figures.prefill_tokens_per_s for figures in found),
        decode_tokens_per_s={
            size: median(figures.decode_tokens_per_s[size] for figures in found)
            for size in plan.batch
        },
        first_token_s=median(seconds for seconds, _ in starts),
        load_s=median(start.load_s for _, start in starts),
        peak_resident_bytes=memory.peak_resident_bytes,
        resident_bytes=memory.resident_bytes,
        read_bandwidth_bytes_per_s=median(figures.read_bandwidth_bytes_per_s for figures in found),
        weight_bytes_per_token=found[0].weight_bytes_per_token,
        prefix_hit_first_token_s=median(figures.prefix_hit_first_token_s for figures in found),
        instruction_set=instruction_set(),
        threads=plan.threads,
        commit=commit(),
        profile=found[-1].phases if with_profile else {},
    )


def run_curves(plan: BenchPlan) -> Curves:
    """Measure the curves. Raises as `run_bench` does."""
    return _child("curves", plan, Curves)[1]


def _child(task: str, plan: BenchPlan, kind: type[T]) -> tuple[float, T]:
    """Return the seconds from a process's start to its line, and what the line says."""
    argv: Sequence[str] = (
        sys.executable,
        "-m",
        "nestling.bench.child",
        task,
        msgspec.json.encode(plan).decode(),
    )
    begin = perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:  # noqa: S603 - our own module
        assert child.stdout is not None
        try:
            line = child.stdout.readline()
            seconds = perf_counter() - begin
        except BaseException:
            child.kill()
            raise
    if child.returncode == 0:
        return seconds, msgspec.json.decode(line, type=kind)
    if not line:
        raise EngineError(f"a measuring process ended with exit code {child.returncode}")
    refusal = msgspec.json.decode(line, type=Refusal)
    if refusal.exit_code == InvalidRequestError.exit_code:
        raise InvalidRequestError(refusal.message)
    raise EngineError(refusal.message)
