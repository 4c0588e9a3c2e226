"""64 streams of mixed lengths with shared beginnings, random aborts and little room: in short."""

import random
from dataclasses import dataclass

from nestling.engine.clients.messages import Abort, SamplingParams

from .fake_model import FakeRunner
from .helpers import SteppedLoop, expected_tokens

NUM_REQUESTS = 300


@dataclass(frozen=True)
class Visit:
    prompt: list[int]
    params: SamplingParams
    salt: str


def visits(rng: random.Random) -> list[Visit]:
    """A few system prompts under two accounts, each with ends of its own."""
    systems = [[rng.randrange(60) for _ in range(length)] for length in (0, 9, 30, 48, 70)]
    return [
        Visit(
            rng.choice(systems) + [rng.randrange(3) for _ in range(rng.randrange(1, 24))],
            SamplingParams(max_tokens=rng.randrange(1, 30), seed=i + 1, temperature=0.9),
            rng.choice("ab"),
        )
        for i in range(NUM_REQUESTS)
    ]


def test_64_streams_change_nothing_of_each_other_and_leak_nothing() -> None:
    rng = random.Random(4)
    loop = SteppedLoop(
        FakeRunner(num_blocks=420, num_sliding_blocks=380),
        max_num_seqs=64,
        max_num_batched_tokens=160,
        max_waiting=NUM_REQUESTS,
    )
    todo = visits(rng)
    most_running = 0
    for i, visit in enumerate(todo):
        params = {name: getattr(visit.params, name) for name in ("max_tokens", "seed")}
        loop.submit(str(i), visit.prompt, cache_salt=visit.salt, temperature=0.9, **params)
        if i % 8 == 0:
            loop.steps(1)
        if rng.random() < 0.2:
            loop.loop.post(Abort(str(rng.randrange(i + 1))))
        most_running = max(most_running, loop.stats().num_running)
    loop.finish_all()

    num_aborted = 0
    for i, visit in enumerate(todo):
        (end,) = loop.ends(str(i))
        tokens = loop.tokens(str(i))
        assert end in ("length", "abort")
        if end == "abort":
            num_aborted += 1
        else:
            assert len(tokens) == visit.params.max_tokens
        assert tokens == expected_tokens(visit.prompt, visit.params, len(tokens))
    stats = loop.stats()
    assert (stats.num_free_blocks, stats.num_free_sliding_blocks) == (420, 380)
    assert loop.loop._kv._sequences == {}
    assert loop.loop._samplers == {}
    # Else the load proves too little.
    assert most_running == 64
    assert num_aborted > 20
    assert stats.num_prefix_hits > 100
    assert stats.num_preemptions > 0
