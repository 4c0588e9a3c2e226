"""The in-process client: what the upper waist promises, over the fake model."""

import asyncio
import contextlib
import random

import pytest

from nestling.engine.clients.messages import SamplingParams, Submit
from nestling.engine.clients.thread_engine import ThreadEngine
from nestling.engine.loop import EngineLoop
from nestling.errors import (
    ContextLengthExceededError,
    EngineError,
    InvalidRequestError,
    ModelFileError,
    OverloadedError,
    ServerShutdownError,
)
from tests.engine.fake_model import load_fake_runner
from tests.engine.helpers import collect, config, expected_tokens, until_idle


def engine(**changes: object) -> ThreadEngine:
    return ThreadEngine(config(**changes), load=load_fake_runner)


async def test_generate_yields_tokens_and_a_last_reason() -> None:
    client = engine()
    await client.start()
    params = SamplingParams(max_tokens=9, seed=4)
    assert await collect(client, "a", [1, 2], params) == (expected_tokens([1, 2], params), "length")
    assert client.info.max_model_len == 96
    await client.stop()


async def test_refusals_come_as_the_fitting_errors() -> None:
    client = engine(max_num_seqs=1, max_waiting=0, model="fake:0.01")
    await client.start()
    with pytest.raises(ContextLengthExceededError, match="KV cache holds 96"):
        await collect(client, "a", [1] * 96, SamplingParams())
    with pytest.raises(InvalidRequestError) as info:
        await collect(client, "b", [1], SamplingParams(top_p=7))
    assert info.value.param == "top_p"
    with pytest.raises(InvalidRequestError, match="plain data"):
        await collect(client, "c", [1], SamplingParams(max_tokens=1.5))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="plain data"):
        await collect(client, "c", [1 << 80], SamplingParams())
    first = client.generate(Submit("d", [1], SamplingParams(max_tokens=50)))
    await anext(first)
    with pytest.raises(OverloadedError) as overloaded:
        await collect(client, "e", [1], SamplingParams())
    assert overloaded.value.retry_after_s >= 1
    with pytest.raises(InvalidRequestError, match="in use"):
        await collect(client, "d", [1], SamplingParams())
    await first.aclose()
    await client.stop()


async def test_leaving_early_aborts_within_a_step() -> None:
    client = engine(model="fake:0.02")
    await client.start()
    outputs = client.generate(Submit("a", [1], SamplingParams(max_tokens=90)))
    await anext(outputs)
    steps = (await client.health()).num_steps
    await outputs.aclose()
    stats = await until_idle(client)
    assert stats.num_steps <= steps + 2
    assert stats.num_free_blocks == stats.num_blocks
    await client.stop()


async def test_a_cancelled_reader_aborts_even_before_the_first_token() -> None:
    client = engine(model="fake:0.05", max_num_batched_tokens=4)
    await client.start()
    task = asyncio.create_task(collect(client, "a", [1] * 60, SamplingParams(max_tokens=30)))
    await asyncio.sleep(0.07)
    assert (await client.health()).num_running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stats = await until_idle(client)
    assert stats.num_generated_tokens == 0
    await client.stop()


async def test_abort_ends_the_iterator_with_its_reason() -> None:
    client = engine(model="fake:0.01")
    await client.start()
    task = asyncio.create_task(collect(client, "a", [1], SamplingParams(max_tokens=90, seed=1)))
    await asyncio.sleep(0.05)
    await client.abort("a")
    await client.abort("unknown")
    tokens, reason = await task
    assert reason == "abort"
    params = SamplingParams(max_tokens=90, seed=1)
    assert tokens == expected_tokens([1], params)[: len(tokens)]
    await client.stop()


async def test_a_request_id_is_free_again_after_its_last_event() -> None:
    client = engine(model="fake:0.02")
    await client.start()
    outputs = client.generate(Submit("a", [1], SamplingParams(max_tokens=90)))
    await anext(outputs)
    await outputs.aclose()
    with pytest.raises(InvalidRequestError, match="in use"):  # its abort is still under way
        await collect(client, "a", [2], SamplingParams(max_tokens=2))
    await until_idle(client)
    params = SamplingParams(max_tokens=2, seed=1)
    assert (await collect(client, "a", [2], params))[0] == expected_tokens([2], params)
    await client.stop()


async def test_stop_ends_live_requests_and_every_later_call() -> None:
    client = engine(model="fake:0.01")
    await client.start()
    task = asyncio.create_task(collect(client, "a", [1], SamplingParams(max_tokens=90)))
    await asyncio.sleep(0.03)
    await client.stop()
    with pytest.raises(ServerShutdownError):
        await task
    with pytest.raises(EngineError, match="not running"):
        await client.health()
    with pytest.raises(EngineError, match="not running"):
        await collect(client, "b", [1], SamplingParams())
    await client.stop()


async def test_health_answers_between_steps_or_fails_in_time() -> None:
    client = ThreadEngine(config(model="fake:1"), load=load_fake_runner, health_timeout_s=0.1)
    await client.start()
    assert (await client.health()).num_running == 0
    task = asyncio.create_task(collect(client, "a", [1], SamplingParams(max_tokens=1)))
    await asyncio.sleep(0.05)
    with pytest.raises(EngineError, match="did not answer"):
        await client.health()
    await task
    await client.stop()


async def test_a_model_that_does_not_load_is_told_by_start() -> None:
    def load(*_: object) -> object:
        raise ModelFileError("/x", "is no model")

    client = ThreadEngine(config(), load=load)  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match="is no model"):
        await client.start()
    await client.stop()


async def test_a_defect_of_the_loop_fails_the_live_and_the_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: EngineLoop) -> None:
        raise AssertionError("a defect")

    monkeypatch.setattr(EngineLoop, "_compute", broken)
    client = engine()
    await client.start()
    with pytest.raises(EngineError, match="has ended"):
        await collect(client, "a", [1], SamplingParams())
    with pytest.raises(EngineError, match="not running"):
        await client.health()
    await client.stop()


async def test_a_hundred_random_requests_end_in_exactly_one_way() -> None:
    rng = random.Random(7)
    client = engine(num_blocks=20, max_num_seqs=5, max_waiting=20, model="fake:0.0005")
    await client.start()
    counts = {"finished": 0, "refused": 0, "aborted": 0, "left": 0}

    async def visit(i: int) -> None:
        await asyncio.sleep(rng.random() * 0.4)
        prompt = [rng.randrange(72) for _ in range(rng.choice([1, 5, 30, 60, 80]))]
        params = SamplingParams(max_tokens=rng.randint(1, 40), seed=i + 1)
        leaves_after = rng.choice([None, None, None, 0, 1, 5])
        tokens: list[int] = []
        outputs = client.generate(Submit(str(i), prompt, params))
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    tokens += output.token_ids
                    if output.finish_reason == "abort":
                        counts["aborted"] += 1
                        return
                    if output.finish_reason is not None:
                        room = 80 - len(prompt)
                        expected = expected_tokens(prompt, params, min(params.max_tokens, room))
                        assert tokens == expected
                        counts["finished"] += 1
                        return
                    if leaves_after is not None and len(tokens) > leaves_after:
                        if i % 2:
                            counts["left"] += 1
                            return
                        await client.abort(str(i))
        except (OverloadedError, ContextLengthExceededError):
            counts["refused"] += 1

    await asyncio.gather(*(visit(i) for i in range(100)))
    assert sum(counts.values()) == 100
    assert min(counts.values()) > 0
    stats = await until_idle(client)
    assert stats.num_free_blocks == stats.num_blocks
    assert stats.num_preemptions > 0
    await client.stop()
