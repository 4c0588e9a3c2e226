"""The loop over the fake model: every way in, every way out, and who is told."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.engine.clients.messages import (
    Abort,
    GetStats,
    RequestFailed,
    SamplingParams,
    Shutdown,
    Stats,
)
from nestling.engine.sampler import RequestSampler
from nestling.model.batch import ForwardBatch

from .fake_model import FakeRunner, next_state
from .helpers import SteppedLoop, expected_tokens


def test_tokens_are_those_of_the_request_alone() -> None:
    loop = SteppedLoop()
    params = SamplingParams(max_tokens=30, seed=3)
    loop.submit("a", [5, 6, 7], max_tokens=30, seed=3)
    loop.finish_all()
    assert loop.tokens("a") == expected_tokens([5, 6, 7], params)
    assert loop.ends("a") == ["length"]
    assert loop.stats().num_free_blocks == 24


def test_a_stop_token_ends_it_and_comes_last() -> None:
    params = SamplingParams(max_tokens=40, temperature=0, seed=1)
    free = expected_tokens([9, 8], params)
    stop = free[6]
    loop = SteppedLoop()
    loop.submit("a", [9, 8], max_tokens=40, temperature=0, seed=1, stop_token_ids=(stop, 63))
    loop.finish_all()
    assert loop.tokens("a") == free[: free.index(stop) + 1]
    assert loop.ends("a") == ["stop"]


def test_a_stop_token_as_the_very_last_one_is_a_stop() -> None:
    params = SamplingParams(max_tokens=3, temperature=0, seed=1)
    free = expected_tokens([9, 8], params)
    loop = SteppedLoop()
    loop.submit("a", [9, 8], max_tokens=3, temperature=0, stop_token_ids=(free[-1],))
    loop.finish_all()
    assert loop.ends("a") == ["stop"]


def test_the_answer_ends_at_the_edge_of_the_cache() -> None:
    loop = SteppedLoop(num_blocks=3)
    loop.submit("a", [1] * 5, max_tokens=100, seed=2)
    loop.finish_all()
    assert len(loop.tokens("a")) == 7
    assert loop.ends("a") == ["length"]
    assert loop.loop.info.max_model_len == 12


@pytest.mark.parametrize(
    ("prompt", "params", "code", "param"),
    [
        ([], {}, "invalid_request", "prompt_token_ids"),
        ([99], {}, "invalid_request", "prompt_token_ids"),
        ([1] * 96, {}, "context_length_exceeded", "prompt_token_ids"),
        ([1], {"top_p": 3.0}, "invalid_request", "top_p"),
    ],
)
def test_refusals_are_told_once(
    prompt: list[int], params: dict[str, Any], code: str, param: str
) -> None:
    loop = SteppedLoop()
    loop.submit("bad", prompt, **params)
    loop.submit("good", [1, 2], max_tokens=3, seed=1)
    loop.finish_all()
    assert loop.ends("bad") == [code]
    failed = [event for event in loop.events if isinstance(event, RequestFailed)]
    assert failed[0].param == param
    assert loop.ends("good") == ["length"]


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    loop = SteppedLoop(max_waiting=2, max_num_seqs=2)
    for i in range(5):
        loop.submit(str(i), [1], max_tokens=2)
    loop.finish_all()
    assert [loop.ends(str(i)) for i in range(5)] == [["length"]] * 4 + [["overloaded"]]
    failed = next(event for event in loop.events if isinstance(event, RequestFailed))
    assert failed.retry_after_s == 3


def test_a_request_id_that_is_in_use_is_refused() -> None:
    loop = SteppedLoop()
    loop.submit("a", [1], max_tokens=5, seed=1)
    loop.steps(1)
    loop.submit("a", [2], max_tokens=5, seed=1)
    loop.finish_all()
    assert loop.ends("a") == ["invalid_request", "length"]
    loop.submit("a", [2], max_tokens=1, seed=1)  # free again once it has ended
    loop.finish_all()
    assert loop.ends("a")[-1] == "length"


def test_abort_anywhere_frees_within_one_step() -> None:
    loop = SteppedLoop(max_num_seqs=2, max_num_batched_tokens=4)
    loop.submit("running", [1, 2], max_tokens=50)
    loop.submit("prefilling", [1] * 40, max_tokens=50)
    loop.submit("waiting", [1, 2], max_tokens=50)
    loop.steps(2)
    stats = loop.stats()
    assert (stats.num_running, stats.num_waiting) == (2, 1)
    for name in ("waiting", "prefilling", "running"):
        loop.loop.post(Abort(name))
        loop.loop.post(Abort(name))
        loop.steps(1)
        assert loop.ends(name) == ["abort"]
    loop.loop.post(Abort("unknown"))
    loop.steps(1)
    stats = loop.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_free_blocks) == (0, 0, 24)


def test_abort_in_the_same_drain_as_the_submit() -> None:
    loop = SteppedLoop()
    loop.submit("a", [1], max_tokens=5)
    loop.loop.post(Abort("a"))
    loop.steps(2)
    assert loop.ends("a") == ["abort"]
    assert loop.tokens("a") == []


def test_a_failing_sampler_fails_only_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2026-105757's class: an error of one request must not escape its boundary."""
    sample = RequestSampler.sample

    def faulty(self: RequestSampler, logits: NDArray[np.float32]) -> object:
        if self._params.seed == 666 and self._num_sampled == 2:
            raise RuntimeError("0xdeadbeef in /some/path")
        return sample(self, logits)

    monkeypatch.setattr(RequestSampler, "sample", faulty)
    loop = SteppedLoop()
    loop.submit("good", [1, 2], max_tokens=9, seed=1)
    loop.submit("bad", [1, 2], max_tokens=9, seed=666)
    loop.submit("also", [3], max_tokens=9, seed=2)
    loop.finish_all()
    assert loop.ends("bad") == ["engine_error"]
    assert len(loop.tokens("bad")) == 2
    failed = next(event for event in loop.events if isinstance(event, RequestFailed))
    assert "0x" not in failed.message
    assert "/" not in failed.message
    assert loop.tokens("good") == expected_tokens([1, 2], SamplingParams(max_tokens=9, seed=1))
    assert loop.tokens("also") == expected_tokens([3], SamplingParams(max_tokens=9, seed=2))
    assert loop.stats().num_free_blocks == 24


class NotANumberRunner(FakeRunner):
    """Logits of prompts that begin with 13 are NaN."""

    def execute(self, batch: ForwardBatch) -> NDArray[np.float32]:
        logits = super().execute(batch)
        for i, blocks in enumerate(batch.full_block_table):
            if self.states[blocks[0] * self.block_size] == next_state(0, 13):
                logits[i] = np.nan
        return logits


def test_logits_that_are_not_numbers_fail_only_their_request() -> None:
    loop = SteppedLoop(NotANumberRunner(num_blocks=24))
    loop.submit("bad", [13], max_tokens=3, seed=1)
    loop.submit("good", [14], max_tokens=3, seed=1)
    loop.finish_all()
    assert loop.ends("bad") == ["engine_error"]
    assert loop.ends("good") == ["length"]


class FaultyRunner(FakeRunner):
    """Raises in its third step."""

    def execute(self, batch: ForwardBatch) -> NDArray[np.float32]:
        logits = super().execute(batch)
        if len(self.batches) == 3:
            raise MemoryError("no room")
        return logits


def test_a_failing_step_fails_its_batch_and_the_loop_goes_on() -> None:
    loop = SteppedLoop(FaultyRunner(num_blocks=24), max_num_seqs=2)
    loop.submit("a", [1, 2], max_tokens=9, seed=1)
    loop.submit("b", [1, 2, 3], max_tokens=9, seed=2)
    loop.submit("waiting", [4], max_tokens=9, seed=3)
    loop.finish_all()
    assert loop.ends("a") == loop.ends("b") == ["engine_error"]
    assert loop.tokens("waiting") == expected_tokens([4], SamplingParams(max_tokens=9, seed=3))
    assert loop.stats().num_free_blocks == 24


def test_logprobs_come_with_each_token() -> None:
    loop = SteppedLoop()
    loop.submit("a", [1, 2], max_tokens=4, logprobs=3, seed=1)
    loop.submit("b", [1, 2], max_tokens=4, seed=1)
    loop.finish_all()
    for output in loop.outputs("a"):
        assert output.logprobs is not None
        assert [item.token_id for item in output.logprobs] == output.token_ids
        assert len(output.logprobs[0].top) == 3
    assert all(output.logprobs is None for output in loop.outputs("b"))
    assert loop.tokens("a") == loop.tokens("b")


def test_statistics_count_what_happened() -> None:
    loop = SteppedLoop(num_blocks=6, max_num_batched_tokens=32)
    loop.submit("a", [1] * 8, max_tokens=12, seed=1)
    loop.submit("b", [2] * 8, max_tokens=12, seed=1)
    loop.loop.post(GetStats(77))
    loop.steps(1)
    first = next(event for event in loop.events if isinstance(event, Stats))
    assert first.probe_id == 77
    loop.finish_all()
    stats = loop.stats()
    assert stats.num_prompt_tokens == 16
    assert stats.num_generated_tokens == 24
    assert stats.num_preemptions >= 1
    assert stats.num_steps == len(loop.runner.batches)
    assert loop.tokens("b") == expected_tokens([2] * 8, SamplingParams(max_tokens=12, seed=1))


def test_shutdown_aborts_everything_and_ends_the_loop() -> None:
    loop = SteppedLoop()
    loop.submit("a", [1], max_tokens=50)
    loop.submit("b", [1], max_tokens=50)
    loop.steps(2)
    loop.loop.post(Shutdown())
    loop.loop.run()
    assert loop.ends("a") == loop.ends("b") == ["abort"]
    assert loop.stats().num_free_blocks == 24
