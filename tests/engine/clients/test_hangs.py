"""What happens when the engine process hangs: stopped, spinning, stuck in its load, or paused."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nestling.engine.clients.messages import SamplingParams
from nestling.engine.clients.process_engine import EngineTimeouts, ProcessEngine
from nestling.engine.clients.stacks import thread_states
from nestling.errors import EngineError, EngineRestartedError
from tests.engine.helpers import collect, config, expected_tokens, until

ARGV = (sys.executable, str(Path(__file__).parent.parent / "fake_worker.py"))
PARAMS = SamplingParams(max_tokens=9, seed=4)
TIMEOUTS = EngineTimeouts(step_s=1.0, load_s=60.0, health_s=0.2)
PATIENCE_S = 60.0
"""A loaded machine may take long; nothing here waits for time to pass but for what happens."""


def engine(
    model: str = "fake", timeouts: EngineTimeouts = TIMEOUTS, **changes: object
) -> ProcessEngine:
    return ProcessEngine(
        config(model=model, **changes), argv=ARGV, timeouts=timeouts, backoff_s=0.01
    )


def stop(client: ProcessEngine) -> int:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)
    return client.pid


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def until_new(client: ProcessEngine, old_pid: int) -> None:
    await until(lambda: client.pid not in (None, old_pid), PATIENCE_S)


async def test_a_stopped_engine_is_killed_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    client = engine()
    await client.start()
    pid = stop(client)  # idle: noticed once there is work
    begin = time.monotonic()
    with pytest.raises(EngineRestartedError, match="made no progress for 1 s and was killed"):
        await collect(client, "a", [1, 2], PARAMS)
    assert time.monotonic() - begin >= 1.0
    await until_new(client, pid)
    assert is_gone(pid)
    assert await collect(client, "b", [1, 2], PARAMS) == (expected_tokens([1, 2], PARAMS), "length")
    [said] = [text for text in caplog.messages if "hangs" in text]
    assert f"engine process {pid} hangs" in said
    assert "state T (stopped)" in said  # from /proc, since it could not answer the signal
    assert any("made no progress for 1 s and was killed (signal 9)" in m for m in caplog.messages)
    await client.stop()


async def test_a_spinning_engine_shows_where(caplog: pytest.LogCaptureFixture) -> None:
    client = engine("spin")
    await client.start()
    pid = client.pid
    assert pid is not None
    jobs = [collect(client, name, [1, 66], PARAMS) for name in ("a", "b")]
    for result in await asyncio.gather(*jobs, return_exceptions=True):
        assert isinstance(result, EngineRestartedError)
    await until_new(client, pid)
    said = next(text for text in caplog.messages if "hangs" in text)
    assert "in execute" in said
    assert "in _read_commands" in said  # all threads, not the one alone
    await client.stop()


async def test_probes_never_wait_for_a_hung_engine() -> None:
    client = engine(timeouts=EngineTimeouts(step_s=4.0, health_s=0.2))
    await client.start()
    figures = await client.health()
    stop(client)
    probes: list[float] = []
    stopped = time.monotonic()
    while time.monotonic() - stopped < PATIENCE_S:
        begin = time.monotonic()
        try:
            assert await client.health() == figures  # the last ones, while it may just be busy
        except EngineError as error:
            assert "made no progress for" in error.message  # noqa: PT017 - among many probes
            break
        finally:
            probes.append(time.monotonic() - begin)
    assert len(probes) > 1
    assert max(probes) < 2.0
    await client.stop()


async def test_a_probe_alone_is_work_that_reveals_a_hang() -> None:
    client = engine()
    await client.start()
    pid = stop(client)
    with pytest.raises(EngineError):
        await client.health()
    await until_new(client, pid)
    await client.stop()


async def test_probes_say_why_while_a_new_one_starts() -> None:
    client = ProcessEngine(config(), argv=ARGV, timeouts=TIMEOUTS, backoff_s=PATIENCE_S)
    await client.start()
    stop(client)
    with pytest.raises(EngineRestartedError):
        await collect(client, "a", [1], PARAMS)
    with pytest.raises(EngineRestartedError, match=r"made no progress .*; a new one is starting"):
        await client.health()
    await client.stop()


async def test_a_busy_engine_answers_probes_with_its_last_figures() -> None:
    """A step of 1 s is no hang, and the probe is answered before it ends."""
    client = engine("fake:1", timeouts=EngineTimeouts(health_s=0.2))
    await client.start()
    await client.health()
    running = asyncio.create_task(collect(client, "a", [1, 2], PARAMS))
    stats = await client.health()
    while not stats.num_running:
        stats = await client.health()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.stop()


async def test_a_slow_load_that_reports_bytes_is_waited_for() -> None:
    """In the proportions of a load of 60 s under a timeout of 20 s."""
    client = engine("slow:60", EngineTimeouts(step_s=2.0, load_s=2.0))
    begin = time.monotonic()
    await client.start()
    assert time.monotonic() - begin > 6
    assert (await collect(client, "a", [1, 2], PARAMS))[1] == "length"
    await client.stop()


async def test_a_stuck_load_ends_with_its_stacks(caplog: pytest.LogCaptureFixture) -> None:
    client = engine("stuck", EngineTimeouts(load_s=1.0))
    with pytest.raises(EngineError, match=r"no progress for 1 s, at 1\.2 of 3\.0 GB, and was"):
        await client.start()
    assert any("fake_worker.py" in text and "in load" in text for text in caplog.messages)
    assert client.pid is None


async def test_stop_ends_a_hung_engine() -> None:
    """It has 5 s to end by itself, whatever waits in its socket."""
    client = engine(timeouts=EngineTimeouts(step_s=PATIENCE_S))
    await client.start()
    pid = stop(client)
    waiting = asyncio.create_task(collect(client, "a", [1] * 50, PARAMS))
    await asyncio.sleep(0)
    begin = time.monotonic()
    await client.stop()
    assert time.monotonic() - begin < 30
    assert is_gone(pid)
    with pytest.raises(EngineError):
        await waiting


PARENT = """
    import asyncio, sys
    from nestling.engine.clients.messages import SamplingParams, Submit
    from nestling.engine.clients.process_engine import EngineTimeouts, ProcessEngine
    from nestling.engine.config import EngineConfig

    async def main():
        client = ProcessEngine(
            EngineConfig(model="fake:0.05", max_num_seqs=4, num_blocks=64, block_size=4),
            argv=(sys.executable, sys.argv[1]),
            timeouts=EngineTimeouts(step_s=2.0),
        )
        await client.start()
        count = 0
        async for output in client.generate(Submit("a", [1], SamplingParams(max_tokens=90))):
            count += len(output.token_ids)
            if count == 1:
                print(client.pid, flush=True)
        print(count, output.finish_reason, client.pid, flush=True)
        await client.stop()

    asyncio.run(main())
"""


async def test_a_pause_of_both_processes_is_no_hang() -> None:
    """The engine is let go last, so the watch must give it its whole time again."""
    parent = subprocess.Popen(  # noqa: ASYNC220 - its lines are read in a thread
        [sys.executable, "-c", textwrap.dedent(PARENT), ARGV[1]], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = int(await asyncio.to_thread(parent.stdout.readline))
        for pid in (parent.pid, child):
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(3.0)
        os.kill(parent.pid, signal.SIGCONT)
        await asyncio.sleep(0.5)
        os.kill(child, signal.SIGCONT)
        assert await asyncio.to_thread(parent.stdout.readline) == f"90 length {child}\n"


def test_states_of_threads_are_read_where_they_can_be(tmp_path: Path) -> None:
    thread = tmp_path / "7" / "task" / "8"
    thread.mkdir(parents=True)
    (thread / "status").write_text("Name:\tnestling\nState:\tD (disk sleep)\n")
    (thread / "wchan").write_text("io_schedule")
    (thread / "stack").write_text("[<0>] io_schedule+0x1\n")
    (tmp_path / "7" / "task" / "9").mkdir()
    assert thread_states(7, tmp_path) == (
        "thread 8 (nestling): state D (disk sleep), waits in io_schedule\n"
        "  [<0>] io_schedule+0x1\n"
        "thread 9 (unknown): state unknown, waits in unknown"
    )
    assert thread_states(6, tmp_path).startswith("the system tells nothing of process 6")


async def test_a_load_tells_how_far_it_is() -> None:
    """Only the first one: nobody waits at a terminal for a later process."""
    told: list[tuple[int, int]] = []
    client = ProcessEngine(
        config(model="slow:12"),
        argv=ARGV,
        timeouts=TIMEOUTS,
        backoff_s=0.01,
        on_load=lambda num_done, num_total: told.append((num_done, num_total)),
    )
    await client.start()
    assert told == sorted(told)
    assert {num_total for _, num_total in told} == {12}
    assert 2 <= len(set(told)) <= 12
    num_told, pid = len(told), client.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until_new(client, pid)
    await client.stop()
    assert len(told) == num_told
