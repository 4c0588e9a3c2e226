"""Turns a benchmark's result into rows of a table for people."""

from collections.abc import Mapping

from nestling.bench.figures import PhaseTimes
from nestling.bench.plan import BenchPlan
from nestling.bench.runs import BenchResult

Rows = list[tuple[str, ...]]


def result_rows(model_id: str, plan: BenchPlan, result: BenchResult) -> Rows:
    """Return rows of a name and a figure with its unit."""
    bandwidth = result.read_bandwidth_bytes_per_s
    rows: Rows = [
        ("model", model_id),
        ("machine", f"{result.instruction_set}, {result.threads} threads"),
        ("commit", result.commit or "-"),
        (f"prefill, {plan.prompt} tokens", f"{result.prefill_tokens_per_s:,.1f} tokens/s"),
    ]
    for size, rate in result.decode_tokens_per_s.items():
        share = rate / size * result.weight_bytes_per_token / bandwidth
        rows.append(
            (
                f"decode, batch of {size}",
                f"{rate:,.1f} tokens/s in total, weights at {share:.0%} of the read bandwidth",
            )
        )
    return [
        *rows,
        ("read bandwidth", f"{bandwidth / 1e9:,.1f} GB/s"),
        ("weights a token", _size(result.weight_bytes_per_token)),
        ("process start to first token", f"{result.first_token_s:,.2f} s"),
        ("load", f"{result.load_s:,.2f} s"),
        (
            f"first token after a known prefix of {plan.prefix}",
            f"{result.prefix_hit_first_token_s:,.3f} s",
        ),
        (f"resident, {plan.memory_context} tokens", _size(result.resident_bytes)),
        ("resident, at most", _size(result.peak_resident_bytes)),
    ]


def profile_rows(profile: Mapping[str, PhaseTimes]) -> tuple[tuple[str, ...], Rows]:
    """Return a header, and for each phase tokens, MiB of weights a step and times by part."""
    parts = tuple(dict.fromkeys(part for times in profile.values() for part in times.part_seconds))
    rows: Rows = []
    for phase, times in profile.items():
        shown = (
            f"{times.part_seconds.get(part, 0.0) / times.num_steps * 1e3:.3f}" for part in parts
        )
        read = f"{times.weight_bytes_read / times.num_steps / 2**20:,.1f}"
        counts = (times.num_steps, times.num_tokens, times.num_cached_tokens)
        rows.append((phase, *map(str, counts), read, *shown))
    header = ("phase", "steps", "tokens", "cached", "read MiB", *(f"{part} ms" for part in parts))
    return header, rows


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
