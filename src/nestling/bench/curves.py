"""Measures and draws a model's curves: decoding, time to the first token, memory.

Files carry the model's name, so that the curves of several models stand side by side in a folder.
`measure_curves` runs in a measuring process, `draw` in the one that asked for them.
"""

import re
from pathlib import Path

from nestling.bench.figures import Curves
from nestling.bench.machine import resident_bytes
from nestling.bench.plan import MAX_BATCH, BenchPlan, longest_context
from nestling.bench.session import EngineSession
from nestling.bench.svg import Axis, line_chart
from nestling.engine.config import EngineConfig

BATCHES = (1, 2, 4, 8, 16, 32, MAX_BATCH)
FIRST_PROMPT, LAST_PROMPT = 128, 32768


def prompt_lengths(most: int) -> tuple[int, ...]:
    """Return 128, 256 and so on up to 32,768, or up to `most` if that is less."""
    most = min(LAST_PROMPT, most)
    lengths = []
    length = FIRST_PROMPT
    while length < most:
        lengths.append(length)
        length *= 2
    return (*lengths, most)


def measure_curves(plan: BenchPlan) -> Curves:
    """Measure prompts in ascending order and read memory after each, then measure batches.

    There is no prefix cache, as it would keep what the shorter prompts left.
    """
    config = EngineConfig(
        model=plan.model,
        num_threads=plan.threads,
        max_num_seqs=MAX_BATCH,
        prefix_caching=False,
        packed_dir=plan.packed_dir,
        switches_off=plan.switches_off,
    )
    session = EngineSession(config)
    session.first_token(session.random_prompt(16))  # warms up
    by_context: dict[int, float] = {}
    first_token_s: dict[int, float] = {}
    resident: dict[int, int] = {}
    for length in prompt_lengths(longest_context(session.max_model_len, plan.generate)):
        decoded = session.decode(1, length, plan.generate)
        by_context[length] = plan.generate / decoded.phase.seconds
        first_token_s[length] = decoded.first_token_s
        resident[length] = resident_bytes()
    by_batch: dict[int, float] = {}
    for size in BATCHES:
        seconds = session.decode(size, plan.context, plan.generate).phase.seconds
        by_batch[size] = size * plan.generate / seconds
    return Curves(by_batch, by_context, first_token_s, resident)


def draw(curves: Curves, folder: Path, model_id: str, subtitle: str) -> list[Path]:
    """Write the charts as speed-{model_id}-{what}.svg, and return their paths."""
    charts = {
        "decode": line_chart(
            f"{model_id}: decoding",
            subtitle,
            Axis("sequences in the batch", is_log=True),
            Axis("tokens/s, total"),
            list(curves.decode_tokens_per_s.items()),
        ),
        "context": line_chart(
            f"{model_id}: decoding one sequence",
            subtitle,
            Axis("tokens of context", is_log=True),
            Axis("tokens/s"),
            list(curves.context_tokens_per_s.items()),
        ),
        "first-token": line_chart(
            f"{model_id}: time to first token",
            subtitle,
            Axis("tokens of the prompt", is_log=True),
            Axis("seconds", is_log=True),
            list(curves.first_token_s.items()),
        ),
        "memory": line_chart(
            f"{model_id}: resident memory",
            subtitle,
            Axis("tokens of context", is_log=True),
            Axis("MiB"),
            [(length, size / 2**20) for length, size in curves.resident_bytes.items()],
        ),
    }
    name = re.sub(r"[^A-Za-z0-9._-]", "_", model_id)
    paths = [folder / f"speed-{name}-{what}.svg" for what in charts]
    for path, text in zip(paths, charts.values(), strict=True):
        path.write_text(text)
    return paths
