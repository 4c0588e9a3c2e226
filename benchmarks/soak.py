"""Checks that nothing changes or leaks when 64 requests run at once for some minutes.

Run: `python benchmarks/soak.py [MODEL.gguf] [--minutes 10]`; the default is the embedded model.
The real engine runs requests of mixed lengths, with random aborts and a cache too small for all.
Each request runs alone first. Later it must give the same tokens again whatever runs beside it, or
their beginning if it is aborted. At the end no block and no memory may be lost. The exit code is 1
if a check fails.
"""

import argparse
import random
import sys
from dataclasses import dataclass
from time import monotonic

from nestling.bench.machine import resident_bytes
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
from nestling.weights.catalog import embedded_model

NUM_STREAMS = 64
NUM_KINDS = 48
NUM_BLOCKS = 500
"""Blocks of 16 positions: sometimes fewer than all requests together need."""
ABORT_SHARE = 0.1
MOST_GROWTH_BYTES = 16 << 20
MIB = 1 << 20


class SoakError(Exception):
    """A check of the soak has failed."""


@dataclass(frozen=True)
class Kind:
    """A request and the tokens that it gives when nothing runs beside it."""

    prompt: list[int]
    params: SamplingParams
    salt: str
    expected: tuple[int, ...]


class Soak:
    """The engine's loop, stepped here. `live` maps running requests to their tokens so far."""

    def __init__(self, model: str) -> None:
        config = EngineConfig(
            model=model,
            max_num_seqs=NUM_STREAMS,
            num_blocks=NUM_BLOCKS,
            num_sliding_blocks=NUM_BLOCKS,
        )
        runner = load_runner(config)
        self._events: list[EngineEvent] = []
        self._loop = EngineLoop(runner, config, self._events.extend)
        self._rng = random.Random(1)
        self._num_ids = runner.num_text_tokens
        self._num_submitted = 0
        self.live: dict[str, tuple[Kind, list[int]]] = {}
        self.stats: list[Stats] = []
        self.num_finished = self.num_aborted = self.num_tokens = 0

    def new_kind(self) -> Kind:
        """Return a request of a few to a thousand tokens; some share their beginning."""
        rng = self._rng
        shared = random.Random(rng.randrange(6))
        begin = [shared.randrange(self._num_ids) for _ in range(shared.choice((0, 20, 100, 600)))]
        own = [rng.randrange(self._num_ids) for _ in range(rng.choice((3, 15, 60, 400)))]
        params = SamplingParams(
            max_tokens=rng.randrange(1, 120),
            seed=rng.randrange(1, 1 << 30),
            temperature=0.8,
            top_p=0.95,
        )
        kind = Kind(begin + own, params, rng.choice("ab"), ())
        self.submit(kind)
        tokens = next(iter(self.live.values()))[1]
        while self.live:
            self.step(is_alone=True)
        return Kind(kind.prompt, params, kind.salt, tuple(tokens))

    def submit(self, kind: Kind) -> None:
        """Submit a request."""
        name = str(self._num_submitted)
        self._num_submitted += 1
        self.live[name] = (kind, [])
        self._loop.post(Submit(name, kind.prompt, kind.params, kind.salt))

    def abort_one(self) -> None:
        """Abort one of the requests that run or wait."""
        self._loop.post(Abort(self._rng.choice(list(self.live))))

    def step(self, *, is_alone: bool = False) -> None:
        """Run one step of the engine. Raise SoakError if a request's tokens differ."""
        self._loop.step()
        events, self._events[:] = list(self._events), []
        for event in events:
            if isinstance(event, Stats):
                self.stats.append(event)
            elif isinstance(event, RequestFailed):
                raise SoakError(f"request {event.request_id} failed: {event.message}")
            elif isinstance(event, TokenOutput):
                kind, tokens = self.live[event.request_id]
                tokens += event.token_ids
                self.num_tokens += len(event.token_ids)
                if not is_alone and tuple(tokens) != kind.expected[: len(tokens)]:
                    raise SoakError(f"request {event.request_id} gave other tokens than alone")
                if event.finish_reason is not None:
                    self._end(event, kind, tokens, is_alone=is_alone)

    def _end(self, event: TokenOutput, kind: Kind, tokens: list[int], *, is_alone: bool) -> None:
        del self.live[event.request_id]
        if event.finish_reason == "abort":
            self.num_aborted += 1
            return
        self.num_finished += 1
        if not is_alone and len(tokens) != len(kind.expected):
            raise SoakError(f"request {event.request_id} ended after {len(tokens)} tokens")

    def snapshot(self) -> Stats:
        """Return the engine's counters."""
        self._loop.post(GetStats(0))
        self.step()
        return self.stats[-1]


def main() -> None:
    """Run the soak, print its figures and check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(embedded_model().path))
    parser.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args()
    soak = Soak(args.model)
    kinds = [soak.new_kind() for _ in range(NUM_KINDS)]
    rng = random.Random(2)
    begin = told = monotonic()
    warm_bytes = 0
    while monotonic() - begin < args.minutes * 60:
        while len(soak.live) < NUM_STREAMS:
            soak.submit(rng.choice(kinds))
        if rng.random() < ABORT_SHARE:
            soak.abort_one()
        soak.step()
        if monotonic() - told > max(args.minutes * 6, 1):
            told = monotonic()
            warm_bytes = warm_bytes or resident_bytes()
            print(
                f"{told - begin:4.0f} s: {soak.num_finished} finished, {soak.num_aborted} aborted, "
                f"{soak.num_tokens} tokens, {resident_bytes() / MIB:.1f} MiB resident",
                flush=True,
            )
    while soak.live:
        soak.step()
    stats = soak.snapshot()
    growth = resident_bytes() - (warm_bytes or resident_bytes())
    print(
        f"{stats.num_preemptions} preemptions, {stats.num_free_blocks} of {stats.num_blocks} "
        f"blocks free at the end, {growth / MIB:+.1f} MiB since the first tenth"
    )
    lost = (
        stats.num_free_blocks < stats.num_blocks
        or stats.num_free_sliding_blocks < stats.num_sliding_blocks
    )
    if lost or growth > MOST_GROWTH_BYTES:
        sys.exit("something leaks")


if __name__ == "__main__":
    main()
