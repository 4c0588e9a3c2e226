"""Same request and seed, same tokens, whatever else runs: random loads against the request alone.

The fake model reads its tokens back through the cache slots, so a wrong block, slot, position or
order after any mixture of chunks, preemptions and aborts shows as another token.
"""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.engine.clients.messages import Abort, SamplingParams, Submit

from .helpers import SteppedLoop, expected_tokens


@dataclass(frozen=True)
class Visit:
    """One request of a random load."""

    arrives_after: int
    prompt: list[int]
    params: SamplingParams
    aborted_after: int | None


params_strategy = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 40),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.8]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    seed=st.integers(1, (1 << 63) - 1),
    choice_index=st.integers(0, 3),
    stop_token_ids=st.sampled_from([(), (7, 8, 9)]),
)
visits_strategy = st.lists(
    st.builds(
        Visit,
        arrives_after=st.integers(0, 6),
        prompt=st.lists(st.integers(0, 71), min_size=1, max_size=36),
        params=params_strategy,
        aborted_after=st.none() | st.integers(0, 30),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=80)
@given(
    visits=visits_strategy,
    num_blocks=st.integers(10, 30),
    max_num_seqs=st.integers(1, 6),
    extra_tokens=st.integers(0, 20),
)
def test_nothing_else_changes_a_requests_tokens(
    visits: list[Visit], num_blocks: int, max_num_seqs: int, extra_tokens: int
) -> None:
    loop = SteppedLoop(
        num_blocks=num_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + extra_tokens,
        max_waiting=100,
    )
    aborts: dict[int, str] = {}
    step = 0
    for i, visit in enumerate(visits):
        for _ in range(visit.arrives_after):
            step += 1
            if step in aborts:
                loop.loop.post(Abort(aborts[step]))
            loop.steps(1)
        loop.loop.post(Submit(str(i), visit.prompt, visit.params))
        if visit.aborted_after is not None:
            aborts[step + visit.aborted_after] = str(i)
    for at in range(step, max(aborts, default=step) + 1):
        if at in aborts:
            loop.loop.post(Abort(aborts[at]))
        loop.steps(1)
    loop.finish_all()

    room = num_blocks * 4
    for i, visit in enumerate(visits):
        max_tokens = min(visit.params.max_tokens, room - len(visit.prompt))
        expected = expected_tokens(visit.prompt, visit.params, max_tokens)
        (end,) = loop.ends(str(i))
        tokens = loop.tokens(str(i))
        if end == "abort":
            assert tokens == expected[: len(tokens)]
        else:
            assert tokens == expected
            is_stopped = expected[-1] in visit.params.stop_token_ids
            assert end == ("stop" if is_stopped else "length")
    assert loop.stats().num_free_blocks == num_blocks
