"""Measures Nestling and llama.cpp in turn on the same GGUF file, and says which targets are met.

Run: `python benchmarks/vs_llamacpp.py MODEL.gguf --work-dir DIR [--rounds N] [--json]`. The first
run builds llama.cpp natively from the sources that `llama-cpp-python` carries on PyPI. This takes
some minutes and an environment of its own in DIR; `--llama-bin` takes a build of yours instead.
Nestling starts once before the rounds, so that the file is packed; that start is a row of its own.
Each round measures both programs, so that a noisy neighbour meets both. A ratio is the median of
the rounds' own ratios. The script needs Linux, a C++ compiler and `nestling` beside this Python.
"""

import argparse
import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

SOURCE = "llama-cpp-python==0.3.36"
TOOLS = ("llama-bench", "llama-batched-bench", "llama-completion")
CMAKE_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
}
START_MODES = ("none", "mmap")
PREFIX_TOKENS = 1024
GIB = 1 << 30


# --- building llama.cpp --------------------------------------------------------------------------


def build(work_dir: Path) -> Path:
    """Return the folder of llama.cpp's tools, which are built there the first time."""
    found = work_dir / "build" / "bin"
    if all((found / tool).exists() for tool in TOOLS):
        return found
    work_dir.mkdir(parents=True, exist_ok=True)
    print(f"building {SOURCE}'s llama.cpp in {work_dir} (once) ...", file=sys.stderr)
    venv.create(work_dir / "venv", with_pip=True)
    bin_dir = (work_dir / "venv" / "bin").absolute()
    pip = [str(bin_dir / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    _build_step(work_dir, *pip, "install", "cmake", "ninja")
    sdist = work_dir / "sdist"
    only_source = ("--no-deps", "--no-binary", ":all:", "-d", str(sdist.absolute()))
    _build_step(work_dir, *pip, "download", *only_source, SOURCE)
    with tarfile.open(next(sdist.glob("*.tar.gz"))) as archive:
        archive.extractall(work_dir / "source", filter="data")
    source = next((work_dir / "source").glob("*/vendor/llama.cpp")).absolute()
    options = [f"-D{name}={value}" for name, value in CMAKE_OPTIONS.items()]
    options.append(f"-DCMAKE_MAKE_PROGRAM={bin_dir / 'ninja'}")
    cmake = str(bin_dir / "cmake")
    _build_step(work_dir, cmake, "-S", str(source), "-B", "build", "-G", "Ninja", *options)
    _build_step(work_dir, cmake, "--build", "build", "--target", *TOOLS)
    return found


def _build_step(work_dir: Path, *argv: str) -> None:
    done = subprocess.run(argv, cwd=work_dir, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


# --- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """A program that ran to its end."""

    stdout: str
    first_output_s: float
    """Seconds from its start to its first byte of output."""
    peak_bytes: int


def run(*argv: str) -> Finished:
    """Run a program. If it fails, end this one with its output."""
    begin = time.perf_counter()
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors) as process,  # noqa: S603
    ):
        output = process.stdout.read(1) if process.stdout else b""
        first_output_s = time.perf_counter() - begin
        output += process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read()[-4000:].decode(errors="replace")
    if process.returncode != 0:
        sys.exit(f"{' '.join(argv)} failed with {process.returncode}:\n{said}")
    return Finished(output.decode(errors="replace"), first_output_s, usage.ru_maxrss * 1024)


@dataclass(frozen=True)
class Case:
    """The work that both programs get."""

    model: str
    threads: int
    prompt: int
    generate: int
    context: int
    batch: tuple[int, ...]


def measure_llama_cpp(bin_dir: Path, case: Case, load_mode: str) -> dict[str, float]:
    """Return the figures of one round in one load mode, by the names of the rows."""
    common = ["-m", case.model, "-t", str(case.threads), "-lm", load_mode]
    sizes = ",".join(map(str, case.batch))
    cells = max(case.batch) * (case.context + case.generate)
    prefill = run(
        str(bin_dir / "llama-bench"),
        *(*common, "-p", str(case.prompt), "-n", "0", "-r", "1", "-o", "json"),
    )
    figures = {"prefill": float(json.loads(prefill.stdout)[0]["avg_ts"])}
    decode = run(
        str(bin_dir / "llama-batched-bench"),
        *(*common, "-c", str(max(cells, 2048)), "-b", "2048", "-ub", "512"),
        *("-npp", str(case.context), "-ntg", str(case.generate), "-npl", sizes),
        *("--output-format", "jsonl"),
    )
    for line in decode.stdout.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            figures[f"decode {row['pl']}"] = float(row["speed_tg"])
    return figures


def measure_llama_cpp_start(bin_dir: Path, case: Case, load_mode: str) -> dict[str, float]:
    """Return the time to the first token and the peak memory in one load mode."""
    start = run(
        str(bin_dir / "llama-completion"),
        *("-m", case.model, "-t", str(case.threads), "-tb", str(case.threads), "-lm", load_mode),
        *("-c", "4096", "-n", "1", "-p", "Hello", "-no-cnv", "--no-warmup", "--no-display-prompt"),
    )
    return {"start": start.first_output_s, "memory": float(start.peak_bytes)}


def best_of(modes: list[dict[str, float]]) -> dict[str, float]:
    """Return the best of each figure: the most tokens a second, the least seconds and bytes."""
    least = {"start", "memory"}
    return {
        name: (min if name in least else max)(mode[name] for mode in modes) for name in modes[0]
    }


def measure_nestling(nestling: str, case: Case) -> dict[str, float]:
    """Return the figures of one round, by the names of the rows."""
    found = json.loads(
        run(
            nestling,
            *("bench", "--model", case.model, "--threads", str(case.threads)),
            *("--prompt", str(case.prompt), "--generate", str(case.generate)),
            *("--context", str(case.context), "--batch", ",".join(map(str, case.batch))),
            *("--runs", "1", "--json"),
        ).stdout
    )
    prefill = found["prefill_tokens_per_s"]
    decode = found["decode_tokens_per_s"]
    hit_s = found["prefix_hit_first_token_s"]
    figures = {
        "prefill": prefill,
        "start": found["first_token_s"],
        "memory": float(found["resident_bytes"]),
        "prefix": hit_s / (PREFIX_TOKENS / prefill),
    }
    figures |= {f"decode {size}": rate for size, rate in decode.items()}
    if "1" in decode:
        weights_per_s = decode["1"] * found["weight_bytes_per_token"]
        figures["bandwidth"] = weights_per_s / found["read_bandwidth_bytes_per_s"]
        figures["prefix steps"] = hit_s * decode["1"]
    return figures


def measure_first_start(nestling: str, case: Case) -> float:
    """Return the seconds from process start to first token, with packing if it is needed."""
    least = ("--prompt", "16", "--generate", "1", "--batch", "1", "--memory-context", "16")
    done = run(
        nestling,
        *("bench", "--model", case.model, "--threads", str(case.threads)),
        *(*least, "--runs", "1", "--json"),
    )
    return float(json.loads(done.stdout)["first_token_s"])


@contextlib.contextmanager
def held(lock: Path | None) -> Iterator[None]:
    """Keep others who use the same lock file off the machine."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the table: both medians, their ratio, and the targets of docs/speed.md."""

    what: str
    llama_cpp: str
    nestling: str
    ratio: float | None
    must: str
    aim: str
    verdict: str


def verdict(value: float, must: float, aim: float) -> str:
    """Return whether the target is met. If must < aim, larger values are better."""
    sign = 1 if must < aim else -1
    if sign * value >= sign * aim:
        return "aim reached"
    return "reached" if sign * value >= sign * must else "missed"


SPEED_TARGETS = {"prefill": (5.5, 8.0), "decode 1": (1.35, 1.6), "decode 16": (3.5, 4.5)}


def table(
    case: Case,
    theirs: list[dict[str, float]],
    ours: list[dict[str, float]],
    first_start_s: float,
) -> list[Row]:
    """Return medians over the rounds, and ratios that are paired within a round."""

    def middle(rounds: list[dict[str, float]], name: str) -> float:
        return median(figures[name] for figures in rounds)

    rows = []
    for name in ("prefill", *(f"decode {size}" for size in case.batch)):
        ratio = median(b[name] / a[name] for a, b in zip(theirs, ours, strict=True))
        must, aim = SPEED_TARGETS.get(name, (None, None))
        rows.append(
            Row(
                f"prefill {case.prompt}, tokens/s" if name == "prefill" else f"{name}, tokens/s",
                f"{middle(theirs, name):,.1f}",
                f"{middle(ours, name):,.1f}",
                ratio,
                f"{must}x" if must else "",
                f"{aim}x" if aim else "",
                verdict(ratio, must, aim) if must and aim else "",
            )
        )
    if "bandwidth" in ours[0]:
        share = middle(ours, "bandwidth")
        shown = f"{share:.0%}"
        rows.append(
            Row(
                "decode 1, of read bandwidth",
                "",
                shown,
                None,
                "70%",
                "90%",
                verdict(share, 0.7, 0.9),
            )
        )
        rows.append(_prefix_row(middle(ours, "prefix"), middle(ours, "prefix steps")))
    memory, start = middle(ours, "memory") / GIB, middle(ours, "start")
    rows.append(
        Row(
            "resident at 4,096 tokens, GiB",
            f"{middle(theirs, 'memory') / GIB:.2f}",
            f"{memory:.2f}",
            median(b["memory"] / a["memory"] for a, b in zip(theirs, ours, strict=True)),
            *("3.3", "3.0", verdict(memory, 3.3, 3.0)),
        )
    )
    rows.append(
        Row(
            "process start to first token, s",
            f"{middle(theirs, 'start'):.2f}",
            f"{start:.2f}",
            median(b["start"] / a["start"] for a, b in zip(theirs, ours, strict=True)),
            *("3", "1", verdict(start, 3, 1)),
        )
    )
    shown = f"{first_start_s:.2f}"
    rows.append(Row("first start, with packing if not yet packed, s", "", shown, None, "", "", ""))
    return rows


def _prefix_row(share: float, steps: float) -> Row:
    """Compare a prefix hit with our own full prefill. The aim is one decode step."""
    found = "aim reached" if round(steps, 1) <= 1 else verdict(share, 1 / 20, 0)
    what = f"first token after a known prefix of {PREFIX_TOKENS:,}, of its prefill"
    shown = f"1/{1 / share:,.0f}, {steps:.1f} steps"
    return Row(what, "", shown, None, "1/20", "1 step", found)


def print_rows(rows: list[Row]) -> None:
    """Print a table in Markdown, which can go into docs/speed.md as it is."""
    print("| what | llama.cpp | nestling | ratio | must reach | aim | |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        cells = (row.what, row.llama_cpp, row.nestling, ratio, row.must, row.aim, row.verdict)
        print("| " + " | ".join(cells) + " |")


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a Gemma 3n .gguf file")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--work-dir", type=Path, help="where llama.cpp is built and kept")
    where.add_argument("--llama-bin", type=Path, help="folder of llama.cpp's tools")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--context", type=int, default=16, help="tokens before decoding begins")
    parser.add_argument("--batch", default="1,4,16")
    parser.add_argument(
        "--load-mode",
        default="none",
        help="llama.cpp's while it computes; several (none,mmap) take the best of each figure",
    )
    parser.add_argument("--lock", type=Path, help="file to lock while either program is measured")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Build llama.cpp, measure in rounds, and print the table."""
    args = arguments()
    if not args.model.exists():
        sys.exit(f"{args.model}: there is no such file")
    batch = tuple(int(size) for size in args.batch.split(","))
    case = Case(
        str(args.model.absolute()), args.threads, args.prompt, args.generate, args.context, batch
    )
    bin_dir = args.llama_bin or build(args.work_dir)
    nestling = str(Path(sys.executable).with_name("nestling"))
    if not args.json:
        print("first start", file=sys.stderr)
    with held(args.lock):
        first_start_s = measure_first_start(nestling, case)
    theirs, ours = [], []
    for number in range(args.rounds):
        if not args.json:
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
        modes, starts = [], []
        for mode in args.load_mode.split(","):
            with held(args.lock):
                modes.append(measure_llama_cpp(bin_dir, case, mode))
        for mode in START_MODES:
            with held(args.lock):
                starts.append(measure_llama_cpp_start(bin_dir, case, mode))
        theirs.append(best_of(modes) | best_of(starts))
        with held(args.lock):
            ours.append(measure_nestling(nestling, case))
    rows = table(case, theirs, ours, first_start_s)
    if args.json:
        shown = [asdict(row) for row in rows]
        data = {"rows": shown, "llama_cpp": theirs, "nestling": ours}
        print(json.dumps(data | {"nestling_first_start_s": first_start_s}, indent=2))
    else:
        print_rows(rows)


if __name__ == "__main__":
    main()
