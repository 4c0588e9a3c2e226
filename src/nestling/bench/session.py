"""Steps the engine's own loop by hand in this thread, so that each phase is timed step by step.

Prompts are random token ids, never the same twice. So no figure profits from the prefix cache but
the one that measures it.
"""

import itertools
from time import perf_counter
from typing import NamedTuple

import numpy as np

from nestling.bench.figures import PhaseTimes
from nestling.engine.clients.messages import (
    Abort,
    EngineEvent,
    GetStats,
    RequestFailed,
    SamplingParams,
    Stats,
    Submit,
    TokenOutput,
)
from nestling.engine.config import EngineConfig
from nestling.engine.loop import EngineLoop
from nestling.engine.runners.load import load_runner
from nestling.errors import EngineError

UNBOUNDED = 1 << 30
"""Stands for as many tokens as the context takes."""


class Phase(NamedTuple):
    """A phase whose steps were timed."""

    seconds: float
    times: PhaseTimes


class Decoded(NamedTuple):
    """A decoded batch: the time until all had a first token, and the steps after it."""

    first_token_s: float
    phase: Phase


class EngineSession:
    """A loaded model and its loop, for one phase at a time. Sampling is greedy and never stops."""

    def __init__(self, config: EngineConfig) -> None:
        self._runner = runner = load_runner(config)
        self._num_text_tokens = runner.num_text_tokens
        self._events: list[EngineEvent] = []
        self._loop = EngineLoop(runner, config, self._events.extend)
        self.max_model_len = self._loop.info.max_model_len
        self._snapshots: list[Stats] = []
        self._numbers = itertools.count()
        self._rng = np.random.default_rng(0)

    @property
    def weight_bytes_per_token(self) -> int:
        """Return the bytes that a decoded token reads, by the active neurons of past steps."""
        return self._runner.weight_bytes_per_token

    def random_prompt(self, num_tokens: int) -> list[int]:
        """Return random token ids of text."""
        ids: list[int] = self._rng.integers(0, self._num_text_tokens, num_tokens).tolist()
        return ids

    def first_token(self, prompt: list[int]) -> Phase:
        """Return the seconds from a request to its first token on an idle engine."""
        self._ask_stats()
        begin = perf_counter()
        self._submit(prompt, 1)
        while not self._step():
            pass
        return self._phase(perf_counter() - begin)

    def prefix_hit_first_token(self, num_tokens: int) -> Phase:
        """Return the same for a request whose first `num_tokens` tokens another one had before."""
        prefix = self.random_prompt(num_tokens)
        first, second = self._rng.choice(self._num_text_tokens, 2, replace=False).tolist()
        self.first_token([*prefix, first])
        return self.first_token([*prefix, second])

    def decode(self, num_seqs: int, context: int, num_steps: int) -> Decoded:
        """Run `num_steps` steps, each of which gives each sequence one token.

        The clock starts when all have got their first token, so no prefill is in it.
        """
        prompts = [self.random_prompt(context) for _ in range(num_seqs)]
        submitted = perf_counter()
        names = [self._submit(prompt, UNBOUNDED) for prompt in prompts]
        waiting = set(names)
        while waiting:
            waiting -= {output.request_id for output in self._step()}
        self._ask_stats()
        begin = perf_counter()
        for _ in range(num_steps):
            if len(outputs := self._step()) != num_seqs or any(o.finish_reason for o in outputs):
                raise EngineError(
                    f"{num_seqs} sequences of {context} + {num_steps} tokens do not fit the "
                    "context and the KV cache together"
                )
        seconds = perf_counter() - begin
        for name in names:
            self._loop.post(Abort(name))
        return Decoded(begin - submitted, self._phase(seconds))

    def snapshot(self) -> Stats:
        """Return the counters of the idle engine."""
        self._ask_stats()
        self._step()
        return self._snapshots[-1]

    def _ask_stats(self) -> None:
        """Let the next step begin with a snapshot."""
        self._loop.post(GetStats(0))

    def _phase(self, seconds: float) -> Phase:
        """End a phase whose first step began with a snapshot. The engine is idle after it."""
        before, after = self._snapshots[-1], self.snapshot()
        times = {
            part: total - before.part_seconds[part] for part, total in after.part_seconds.items()
        }
        did = PhaseTimes(
            num_steps=after.num_steps - before.num_steps,
            num_tokens=_num_tokens(after) - _num_tokens(before),
            num_cached_tokens=after.num_cached_tokens - before.num_cached_tokens,
            weight_bytes_read=after.weight_bytes_read - before.weight_bytes_read,
            part_seconds=times,
        )
        return Phase(seconds, did)

    def _submit(self, prompt: list[int], max_tokens: int) -> str:
        name = str(next(self._numbers))
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
        self._loop.post(Submit(name, prompt, params))
        return name

    def _step(self) -> list[TokenOutput]:
        self._loop.step()
        events, self._events[:] = self._events.copy(), []
        for event in events:
            if isinstance(event, RequestFailed):
                raise EngineError(f"a request of the benchmark failed: {event.message}")
        self._snapshots += [event for event in events if isinstance(event, Stats)]
        return [event for event in events if isinstance(event, TokenOutput)]


def _num_tokens(stats: Stats) -> int:
    return stats.num_prompt_tokens + stats.num_generated_tokens
