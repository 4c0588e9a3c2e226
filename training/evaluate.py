"""Scores a model folder on JSONL prompts, greedily; the backend is one small function.

python -m training.evaluate --model FOLDER training/eval/*.jsonl
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import checks

Row = dict[str, Any]
Backend = Callable[[list[list[dict[str, str]]]], list[tuple[str, bool]]]
MAX_TOKENS = 160
OVERALL = "**overall**"
LEAST = {("skills", OVERALL): 0.93, ("own_wording", OVERALL): 0.80}
"""Least share of right answers by set, as the model card promises."""
LEAST_OF_A_SKILL = 0.80


@dataclass
class Result:
    """One scored prompt."""

    file: str
    row: Row
    reply: str
    has_passed: bool


def transformers_backend(folder: Path) -> Backend:
    """Return a function that answers a batch greedily with transformers in float32."""
    import torch
    from transformers import Gemma3nForCausalLM

    from training.chatform import ChatTokenizer

    tok = ChatTokenizer.load(folder)
    model = Gemma3nForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(batch: list[list[dict[str, str]]]) -> list[tuple[str, bool]]:
        prompts = [tok.prompt(m) for m in batch]
        width = max(len(p) for p in prompts)
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                eos_token_id=[tok.eos, tok.end],
                pad_token_id=0,
            )
        replies = []
        for row in out[:, width:].tolist():
            ends = [i for i, t in enumerate(row) if t in (tok.eos, tok.end)]
            replies.append((tok.decode(row[: ends[0]] if ends else row), bool(ends)))
        return replies

    return generate


def nestling_backend(folder: Path) -> Backend:
    """Return a function that answers a batch with the project's own engine."""
    from nestling import LLM, SamplingParams

    llm = LLM(folder)
    params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)

    def answer(messages: list[dict[str, str]]) -> tuple[str, bool]:
        reply = llm.chat(messages, params)
        return reply.text, reply.finish_reason == "stop"

    def generate(batch: list[list[dict[str, str]]]) -> list[tuple[str, bool]]:
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(answer, batch))

    return generate


def read_rows(path: Path) -> list[Row]:
    """Return the prompts of a JSONL file."""
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def score(rows: list[Row], backend: Backend, file: str = "", size: int = 64) -> list[Result]:
    """Return every row with its reply and whether it passed; neighbours share a batch."""
    results = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        replies = backend([row["messages"] for row in part])
        for row, (reply, ended) in zip(part, replies, strict=True):
            results.append(Result(file, row, reply, checks.passes(reply, row["check"], ended)))
    return results


def run(folder: Path, files: list[Path], backend: Backend | None = None) -> list[Result]:
    """Score every file that exists."""
    generate = backend or transformers_backend(folder)
    return [r for f in files if f.exists() for r in score(read_rows(f), generate, f.stem)]


def table(results: list[Result]) -> str:
    """Return a Markdown table of scores per file and skill."""
    groups = _marks(results)
    lines = ["| set | skill | prompts | right |", "|---|---|---|---|"]
    for (file, skill), marks in sorted(groups.items(), key=lambda g: (g[0][0] != "skills", g[0])):
        lines.append(f"| {file} | {skill} | {len(marks)} | {100 * sum(marks) / len(marks):.1f} % |")
    return "\n".join(lines)


def shortfalls(results: list[Result]) -> list[str]:
    """Return what misses the promise of the model card, one line each; empty if it is kept."""
    missed = []
    for (file, skill), marks in _marks(results).items():
        least = LEAST.get((file, skill), LEAST_OF_A_SKILL if file == "skills" else 0.0)
        share = sum(marks) / len(marks)
        if share < least:
            missed.append(f"{file}, {skill}: {share:.1%} right, expected at least {least:.0%}")
    return missed


def _marks(results: list[Result]) -> dict[tuple[str, str], list[bool]]:
    groups: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for r in results:
        groups[r.file, r.row["skill"]].append(r.has_passed)
        groups[r.file, OVERALL].append(r.has_passed)
    return groups


def main() -> None:
    """Print the table and, on request, what failed; end with 1 if a promise is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", choices=["transformers", "nestling"], default="transformers")
    parser.add_argument("--failures", action="store_true")
    args = parser.parse_args()
    make = transformers_backend if args.backend == "transformers" else nestling_backend
    results = run(args.model, args.files, make(args.model))
    print(table(results))
    for r in results:
        if args.failures and not r.has_passed:
            print(
                json.dumps(
                    [r.row["id"], r.row["messages"], r.reply, r.row["check"]], ensure_ascii=False
                )
            )
    missed = shortfalls(results)
    print("\n".join(missed))
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
