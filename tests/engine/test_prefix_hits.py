"""Prefix hits and step times through the whole loop: the same tokens, told as cached, in time."""

from typing import Any

import pytest

from nestling.engine.clients.messages import Abort, SamplingParams, TokenOutput
from nestling.engine.runners.runner import Logits
from nestling.model.batch import ForwardBatch

from .fake_model import FakeRunner
from .helpers import SteppedLoop, expected_tokens

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6]  # 5 blocks and one token


def cached(loop: SteppedLoop, name: str) -> set[int]:
    return {output.num_cached_tokens for output in loop.outputs(name)}


def computed_rows(loop: SteppedLoop) -> int:
    return sum(len(batch.input_ids) for batch in loop.runner.batches)


def test_a_hit_gives_the_same_tokens_and_is_told_in_every_output() -> None:
    loop = SteppedLoop(max_num_batched_tokens=64)
    params = SamplingParams(max_tokens=9, seed=5)
    for name in ("first", "second"):
        loop.submit(name, PROMPT, max_tokens=9, seed=5)
        loop.finish_all()
        assert loop.tokens(name) == expected_tokens(PROMPT, params)
    assert (cached(loop, "first"), cached(loop, "second")) == ({0}, {20})
    stats = loop.stats()
    assert (stats.num_prefix_hits, stats.num_cached_tokens) == (1, 20)
    assert stats.num_prompt_tokens == 21 + 1
    assert computed_rows(loop) == 21 + 8 + 1 + 8
    assert stats.num_free_blocks == stats.num_blocks == 24
    assert stats.num_free_sliding_blocks == stats.num_sliding_blocks


def test_the_next_turn_finds_the_answer_too() -> None:
    loop = SteppedLoop(max_num_batched_tokens=64)
    loop.submit("a", PROMPT, max_tokens=12, seed=5)
    loop.finish_all()
    prompt = [*PROMPT, *loop.tokens("a"), 60, 61]
    loop.submit("b", prompt, max_tokens=4, seed=6)
    loop.finish_all()
    assert cached(loop, "b") == {32}  # the answer's last token was never computed
    assert loop.tokens("b") == expected_tokens(prompt, SamplingParams(max_tokens=4, seed=6))


@pytest.mark.parametrize(
    "changes", [{"salt": "other"}, {"salt": ""}, {"prefix_caching": False}], ids=str
)
def test_another_account_or_the_switch_gives_no_hit(changes: dict[str, Any]) -> None:
    salt = changes.pop("salt", "mine")
    loop = SteppedLoop(max_num_batched_tokens=64, **changes)
    for name, cache_salt in (("a", "mine"), ("b", salt)):
        loop.submit(name, PROMPT, cache_salt=str(cache_salt), max_tokens=3, seed=5)
        loop.finish_all()
    assert cached(loop, "b") == {0}
    assert loop.tokens("a") == loop.tokens("b")


def test_equal_prompts_at_once_are_computed_once() -> None:
    """As the choices of one request: all but the first wait a step for what it computes."""
    loop = SteppedLoop(max_num_seqs=4, max_num_batched_tokens=16, max_waiting=0)
    for i in range(4):
        loop.submit(str(i), PROMPT, max_tokens=5, seed=1 + i)
    loop.finish_all()
    assert [cached(loop, str(i)) for i in range(4)] == [{0}, {20}, {20}, {20}]
    assert computed_rows(loop) == 21 + 3 * 1 + 4 * 4
    for i in range(4):
        params = SamplingParams(max_tokens=5, seed=1 + i)
        assert loop.tokens(str(i)) == expected_tokens(PROMPT, params)


def test_an_aborted_prompt_leaves_what_it_had_computed() -> None:
    loop = SteppedLoop(max_num_batched_tokens=8)
    loop.submit("a", PROMPT, max_tokens=5, seed=1)
    loop.steps(2)
    loop.loop.post(Abort("a"))
    loop.submit("b", PROMPT, max_tokens=5, seed=1)
    loop.finish_all()
    assert cached(loop, "b") == {16}
    assert loop.tokens("b") == expected_tokens(PROMPT, SamplingParams(max_tokens=5, seed=1))
    assert loop.stats().num_free_blocks == 24


class WrongOnceRunner(FakeRunner):
    """Writes nonsense and raises, in its second step."""

    def execute(self, batch: ForwardBatch) -> Logits:
        logits = super().execute(batch)
        if len(self.batches) == 2:
            self.states[:] ^= 1
            raise MemoryError("no room")
        return logits


def test_nothing_of_a_failed_step_is_found_later() -> None:
    loop = SteppedLoop(WrongOnceRunner(num_blocks=24), max_num_batched_tokens=64)
    loop.submit("other", [50], max_tokens=1, seed=1)
    loop.steps(1)
    loop.submit("a", PROMPT, max_tokens=5, seed=1)
    loop.steps(1)
    assert loop.ends("a") == ["engine_error"]
    loop.submit("b", PROMPT, max_tokens=5, seed=1)
    loop.finish_all()
    assert cached(loop, "b") == {0}
    assert loop.tokens("b") == expected_tokens(PROMPT, SamplingParams(max_tokens=5, seed=1))


# --- step times ----------------------------------------------------------------------------------


class TimedRunner(FakeRunner):
    """Each step moves the loop's clock by 0.1 s, and by `row_s` for each row."""

    def __init__(self, row_s: float) -> None:
        super().__init__(num_blocks=2048)
        self.max_model_len = 4096
        self.row_s = row_s
        self.now_s = 0.0
        self.step_times: list[float] = []

    def execute(self, batch: ForwardBatch) -> Logits:
        self.step_times.append(0.1 + self.row_s * len(batch.input_ids))
        self.now_s += self.step_times[-1]
        return super().execute(batch)


class TimedLoop(SteppedLoop):
    """A loop on its runner's clock."""

    runner: TimedRunner

    def _clock(self) -> float:
        return self.runner.now_s


@pytest.mark.parametrize("row_s", [0.0005, 0.002])
def test_a_long_prompt_stalls_no_stream_for_longer_than_set(row_s: float) -> None:
    loop = TimedLoop(
        TimedRunner(row_s), max_num_batched_tokens=512, max_step_s=0.4, prefix_caching=False
    )
    loop.submit("stream", [1], max_tokens=100, seed=1)
    loop.steps(3)
    num_tokens = len(loop.tokens("stream"))
    loop.submit("long", [2] * 3000, max_tokens=2, seed=1)
    times = loop.runner.step_times
    del times[:]
    while not loop.tokens("long"):
        loop.steps(1)
    assert max(times) < 0.41
    assert times[-2] > 0.3  # and it takes what it may, once it knows the machine
    assert len(loop.tokens("stream")) - num_tokens == len(times)
    rows = [len(batch.input_ids) - 1 for batch in loop.runner.batches[3:-1]]
    assert all(count % 16 == 0 for count in rows)


def test_a_slow_machine_still_gives_prompts_their_16_rows() -> None:
    loop = TimedLoop(TimedRunner(0.1), max_num_batched_tokens=512, prefix_caching=False)
    loop.submit("stream", [1], max_tokens=100, seed=1)
    loop.steps(3)
    loop.submit("long", [2] * 64, max_tokens=2, seed=1)
    loop.steps(4)
    assert len(loop.tokens("long")) == 1


def test_without_streams_a_prompt_gets_the_whole_step() -> None:
    loop = TimedLoop(TimedRunner(0.1), max_num_batched_tokens=512, prefix_caching=False)
    loop.submit("long", [2] * 1200, max_tokens=2, seed=1)
    loop.steps(3)
    assert [len(batch.input_ids) for batch in loop.runner.batches] == [512, 512, 176]


def test_the_last_output_of_an_aborted_request_tells_its_cached_tokens() -> None:
    loop = SteppedLoop(max_num_batched_tokens=64)
    loop.submit("a", PROMPT, max_tokens=1, seed=1)
    loop.finish_all()
    loop.submit("b", PROMPT, max_tokens=50, seed=1)
    loop.steps(2)
    loop.loop.post(Abort("b"))
    loop.steps(1)
    assert loop.events[-1] == TokenOutput("b", [], "abort", num_cached_tokens=20)
