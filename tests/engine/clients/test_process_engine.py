"""The engine in a process of its own: start, deaths on both sides, shutdown. Fake model behind."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nestling.engine.clients.messages import SamplingParams, Submit
from nestling.engine.clients.process_engine import ProcessEngine
from nestling.errors import (
    ContextLengthExceededError,
    EngineError,
    EngineRestartedError,
    ModelFileError,
    OverloadedError,
    ServerShutdownError,
)
from tests.engine.helpers import collect, config, expected_tokens, until, until_idle

HERE = Path(__file__).parent.parent
ARGV = (sys.executable, str(HERE / "fake_worker.py"))
LONG = SamplingParams(max_tokens=90, seed=5)


def engine(**changes: object) -> ProcessEngine:
    return ProcessEngine(config(**changes), argv=ARGV, backoff_s=0.01)


def is_alive(pid: int) -> bool:
    """Running, not just a zombie that awaits its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def kill_child(client: ProcessEngine) -> None:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)


async def test_it_answers_as_the_in_process_engine_does() -> None:
    client = engine()
    await client.start()
    pid = client.pid
    params = SamplingParams(max_tokens=9, seed=4, logprobs=2)
    results = await asyncio.gather(*(collect(client, str(i), [1, 2, i], params) for i in range(8)))
    assert results == [(expected_tokens([1, 2, i], params), "length") for i in range(8)]
    with pytest.raises(ContextLengthExceededError, match="KV cache holds 96"):
        await collect(client, "long", [1] * 99, params)
    stats = await client.health()
    assert stats.num_free_blocks == stats.num_blocks == client.info.num_blocks == 24
    await client.stop()
    assert pid is not None
    assert not is_alive(pid)
    assert client.pid is None


async def test_leaving_and_abort_reach_the_process() -> None:
    client = engine(model="fake:0.01")
    await client.start()
    outputs = client.generate(Submit("a", [1], LONG))
    await anext(outputs)
    task = asyncio.create_task(collect(client, "b", [1], LONG))
    await asyncio.sleep(0.05)
    await client.abort("b")
    assert (await task)[1] == "abort"
    await outputs.aclose()
    assert (await until_idle(client, 0.5)).num_free_blocks == 24
    await client.stop()


@pytest.mark.parametrize(
    ("model", "kind", "match"),
    [
        ("bad_file", ModelFileError, r"^/models/x.gguf: tensor norm.weight: expected 4 bytes"),
        ("raise", EngineError, "^the model could not be loaded$"),
        ("crash", EngineError, "did not start: signal 6"),
    ],
)
async def test_a_load_that_fails_is_told_by_start(
    model: str, kind: type[EngineError], match: str
) -> None:
    client = engine(model=model)
    with pytest.raises(kind, match=match) as info:
        await client.start()
    assert info.value.code == kind.code
    assert client.pid is None
    await client.stop()


async def test_kill_9_ends_live_requests_and_a_new_process_serves() -> None:
    client = engine(model="fake:0.01")
    await client.start()
    tasks = [asyncio.create_task(collect(client, str(i), [1, i], LONG)) for i in range(6)]
    await asyncio.sleep(0.1)
    first = client.pid
    await kill_child(client)
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, EngineRestartedError)
        assert result.code == "engine_restarted"
    with pytest.raises(EngineRestartedError):
        await client.health()
    params = SamplingParams(max_tokens=5, seed=5)  # held until the new process is ready
    assert (await collect(client, "0", [1, 0], params))[0] == expected_tokens([1, 0], params)
    assert client.pid != first
    assert (await client.health()).num_running == 0
    await client.stop()


async def test_the_circuit_opens_after_five_deaths() -> None:
    client = engine()
    await client.start()
    for _ in range(4):
        dead = client.pid
        await kill_child(client)
        await until(lambda dead=dead: client.pid not in {dead, None}, 10)  # type: ignore[misc]
    await kill_child(client)
    await until(lambda: client.pid is None)
    with pytest.raises(EngineError, match="died 5 times"):
        await collect(client, "a", [1], LONG)
    with pytest.raises(EngineError, match="died 5 times"):
        await client.health()
    await client.stop()


def says(data: str) -> str:
    """A program that writes these bytes and does not end by itself."""
    return f"import os, sys, time; os.write(int(sys.argv[1]), {data}); time.sleep(30)"


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (says("b'\\xff' * 8"), "at most"),
        (says("b'\\0\\0\\0\\1\\xc1'"), "no message"),
        (says("b'\\0\\0\\0\\1\\x90'"), "something else"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
async def test_a_process_that_is_no_engine_is_refused(program: str, match: str) -> None:
    client = ProcessEngine(config(), argv=(sys.executable, "-c", program))
    with pytest.raises(EngineError, match=match):
        await client.start()


async def test_a_process_that_cannot_start_is_an_engine_error() -> None:
    client = ProcessEngine(config(), argv=("/nowhere/python",))
    with pytest.raises(EngineError, match="could not be started"):
        await client.start()


async def test_no_more_requests_are_held_than_the_queue_takes() -> None:
    client = ProcessEngine(config(max_num_seqs=1, max_waiting=1), argv=ARGV, backoff_s=5)
    await client.start()
    await kill_child(client)
    await until(lambda: client.pid is None)
    held = [asyncio.create_task(collect(client, str(i), [1], LONG)) for i in range(2)]
    await asyncio.sleep(0.02)
    with pytest.raises(OverloadedError):
        await collect(client, "x", [1], LONG)
    await client.stop()
    results = await asyncio.gather(*held, return_exceptions=True)
    assert all(isinstance(result, ServerShutdownError) for result in results)


async def test_requests_held_during_a_restart_end_when_it_is_stopped() -> None:
    client = ProcessEngine(config(), argv=ARGV, backoff_s=5)
    await client.start()
    await kill_child(client)
    await until(lambda: client.pid is None)
    task = asyncio.create_task(collect(client, "a", [1], LONG))
    await asyncio.sleep(0.05)
    assert not task.done()
    await client.stop()
    with pytest.raises(ServerShutdownError):
        await task


async def test_stop_ends_live_requests_and_the_process() -> None:
    client = engine(model="fake:0.01")
    await client.start()
    pid = client.pid
    task = asyncio.create_task(collect(client, "a", [1], LONG))
    await asyncio.sleep(0.05)
    await client.stop()
    with pytest.raises(ServerShutdownError):
        await task
    with pytest.raises(EngineError):
        await client.health()
    assert pid is not None
    assert not is_alive(pid)


async def test_signals_of_the_terminal_leave_it_alive() -> None:
    client = engine()
    await client.start()
    assert client.pid is not None
    assert os.getsid(client.pid) != os.getsid(0)
    os.kill(client.pid, signal.SIGINT)
    os.kill(client.pid, signal.SIGTERM)
    assert (await client.health()).num_running == 0
    await client.stop()


PARENT = """
    import asyncio, sys
    from nestling.engine.config import EngineConfig
    from nestling.engine.clients.messages import SamplingParams, Submit
    from nestling.engine.clients.process_engine import ProcessEngine

    async def main():
        client = ProcessEngine(
            EngineConfig(model="fake:0.05", max_num_seqs=4, num_blocks=24, block_size=4),
            argv=(sys.executable, sys.argv[1]),
        )
        await client.start()
        outputs = client.generate(Submit("a", [1], SamplingParams(max_tokens=90)))
        await anext(outputs)
        print(client.pid, flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
"""


async def test_it_dies_with_its_parent() -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220 - a line is read from it at once
        [sys.executable, "-c", textwrap.dedent(PARENT), str(HERE / "fake_worker.py")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = int(await asyncio.to_thread(parent.stdout.readline))
        assert is_alive(child)
        parent.kill()
        await until(lambda: not is_alive(child), 2.0)


async def test_full_queue_refuses_without_waiting_for_the_step() -> None:
    """A step of the real model takes long; who cannot be taken is told before it ends."""
    client = engine(model="fake:1", max_num_seqs=2, max_waiting=3)
    await client.start()
    taken = [asyncio.create_task(collect(client, str(i), [1, 2], LONG)) for i in range(5)]
    await asyncio.sleep(0.1)
    begin = time.monotonic()
    with pytest.raises(OverloadedError, match="5 requests") as caught:
        await collect(client, "late", [1, 2], LONG)
    assert time.monotonic() - begin < 0.7
    assert caught.value.retry_after_s >= 1
    taken[4].cancel()
    await asyncio.wait({taken[4]})
    taken[4] = asyncio.create_task(collect(client, "next", [1, 2], LONG))
    for _ in range(2):
        await client.health()  # answers between two steps
    assert not taken[4].done()
    for task in taken:
        task.cancel()
    await asyncio.gather(*taken, return_exceptions=True)
    await client.stop()
