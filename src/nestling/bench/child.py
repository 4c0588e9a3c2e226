"""One measuring process: `python -m nestling.bench.child TASK PLAN`. Only `runs.py` starts it.

TASK is "start" (load by `LLM`, one token), "throughput", "throughput+memory" or "curves"; PLAN is a
`BenchPlan` in JSON. Prints one line of JSON: `Start`, `Throughput`, `Curves` or `Refusal`.
"""

import sys
from collections.abc import Sequence
from time import perf_counter

import msgspec

from nestling.bench.curves import measure_curves
from nestling.bench.figures import Memory, Refusal, Start, Throughput
from nestling.bench.machine import peak_resident_bytes, resident_bytes
from nestling.bench.plan import BenchPlan
from nestling.bench.session import EngineSession
from nestling.engine.clients.messages import SamplingParams
from nestling.engine.config import EngineConfig
from nestling.errors import NestlingError
from nestling.llm import LLM
from nestling.native.system import ThreadPool, read_bandwidth
from nestling.weights.packed_store import show_notices

BANDWIDTH_BUFFER_BYTES = 1 << 30


def main(argv: Sequence[str]) -> int:
    """Run one task, and return the exit code."""
    task, plan = argv[1], msgspec.json.decode(argv[2], type=BenchPlan)
    show_notices()
    try:
        if task == "start":
            _start(plan)
        elif task == "curves":
            _print(measure_curves(plan))
        else:
            _print(measure(plan, with_memory=task == "throughput+memory"))
    except NestlingError as error:
        _print(Refusal(error.message, error.exit_code))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _print(figures: msgspec.Struct) -> None:
    sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
    sys.stdout.flush()


def _start(plan: BenchPlan) -> None:
    """Load, and print as soon as there is a token, as the parent takes the time."""
    begin = perf_counter()
    with LLM(
        plan.model,
        threads=plan.threads,
        packed_dir=plan.packed_dir,
        switches_off=plan.switches_off,
    ) as llm:
        load_s = perf_counter() - begin
        llm.generate([0], SamplingParams(max_tokens=1, temperature=0.0), ignore_eos=True)
        _print(Start(load_s))


def engine_config(plan: BenchPlan) -> EngineConfig:
    """Return the configuration of a server, with room for the sequences of the plan."""
    return EngineConfig(
        model=plan.model,
        num_threads=plan.threads,
        max_num_seqs=max(*plan.batch, 16),
        packed_dir=plan.packed_dir,
        switches_off=plan.switches_off,
    )


def measure(plan: BenchPlan, *, with_memory: bool) -> Throughput:
    """Measure all that needs a loaded engine. Memory comes first, before the rest enlarges it."""
    session = EngineSession(engine_config(plan))
    memory = None
    if with_memory:
        session.first_token(session.random_prompt(plan.memory_context))
        resident = resident_bytes()
        memory = Memory(resident, max(resident, peak_resident_bytes()))  # coarse counters both
    session.first_token(session.random_prompt(plan.prompt))  # warms up
    prefill = session.first_token(session.random_prompt(plan.prompt))
    phases = {"prefill": prefill.times}
    rates: dict[int, float] = {}
    bandwidths = [_read_bandwidth(plan)]  # on both sides of the first figure, which it bounds
    for size in plan.batch:
        decode = session.decode(size, plan.context, plan.generate).phase
        rates[size] = size * plan.generate / decode.seconds
        phases[f"decode {size}"] = decode.times
        if len(bandwidths) == 1:
            bandwidths.append(_read_bandwidth(plan))
    hit = session.prefix_hit_first_token(plan.prefix)
    phases["prefix hit"] = hit.times
    return Throughput(
        prefill_tokens_per_s=plan.prompt / prefill.seconds,
        decode_tokens_per_s=rates,
        prefix_hit_first_token_s=hit.seconds,
        read_bandwidth_bytes_per_s=sum(bandwidths) / len(bandwidths),
        weight_bytes_per_token=session.weight_bytes_per_token,
        phases=phases,
        memory=memory,
    )


def _read_bandwidth(plan: BenchPlan) -> float:
    return read_bandwidth(BANDWIDTH_BUFFER_BYTES, ThreadPool(plan.threads))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
