"""Measures what each of the engine's optimisations is worth, by switching them off one by one.

Run: `python benchmarks/ablation.py MODEL [--rounds N] [--off NAME ...]`. Each round measures all of
them in turn, so that a noisy neighbour meets all. Figures are medians of the rounds, and so are the
factors. A factor of 1.20x says that the figure is 1.2 times as good with the optimisation.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec

from nestling.bench.plan import BenchPlan
from nestling.bench.runs import BenchResult, run_bench
from nestling.engine.config import SWITCHES
from nestling.errors import NestlingError
from nestling.weights.checkpoint import load_checkpoint

Figures = Mapping[str, float]


def figures(result: BenchResult) -> dict[str, float]:
    """Return the figures that are compared: tokens a second, and memory in MiB."""
    decode = result.decode_tokens_per_s.items()
    return {
        "prefill tokens/s": result.prefill_tokens_per_s,
        **{f"decode {size} tokens/s": rate for size, rate in decode},
        "resident MiB": result.resident_bytes / 2**20,
    }


def table(with_all: Sequence[Figures], without: Mapping[str, Sequence[Figures]]) -> list[list[str]]:
    """Return a header and a row for each switch: the median without it, and its factor."""
    names = list(with_all[0])
    rows = [["switched off", *names], ["none", *(f"{_middle(with_all, n):,.1f}" for n in names)]]
    for switch, rounds in without.items():
        cells = []
        for name in names:
            pairs = zip(with_all, rounds, strict=True)
            ratio = median(on[name] / off[name] for on, off in pairs)
            gain = 1 / ratio if name.endswith("MiB") else ratio
            cells.append(f"{_middle(rounds, name):,.1f} ({gain:.2f}x)")
        rows.append([switch, *cells])
    return rows


def _middle(rounds: Sequence[Figures], name: str) -> float:
    return median(each[name] for each in rounds)


def measure(plan: BenchPlan, switches: Sequence[str], num_rounds: int) -> list[list[str]]:
    """Return the table of the rounds in Markdown."""
    with_all: list[Figures] = []
    without: dict[str, list[Figures]] = {name: [] for name in switches}
    for number in range(num_rounds):
        for name in (None, *switches):
            print(f"round {number + 1}: {name or 'all on'}", file=sys.stderr)
            off = () if name is None else (name,)
            changed = msgspec.structs.replace(plan, switches_off=off)
            found = run_bench(changed, with_profile=False, on_progress=lambda _text: None)
            (with_all if name is None else without[name]).append(figures(found))
    return table(with_all, without)


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a checkpoint folder or .gguf file")
    parser.add_argument("--off", nargs="*", default=SWITCHES, help="switches; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--batch", type=int, nargs="+", default=(1, 4, 16))
    args = parser.parse_args()
    if not args.off:
        sys.exit("the engine has no switches: nothing to compare")
    plan = BenchPlan(
        model=str(args.model),
        threads=args.threads,
        prompt=args.prompt,
        generate=args.generate,
        batch=tuple(args.batch),
        runs=1,
        switches_off=tuple(args.off),
    )
    try:
        max_model_len = load_checkpoint(args.model).config.max_position_embeddings
        rows = measure(plan.fitted(max_model_len), args.off, args.rounds)
    except NestlingError as error:
        sys.exit(error.message)
    header, *rest = rows
    for row in (header, ["---"] * len(header), *rest):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
