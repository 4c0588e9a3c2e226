"""Measures what the engine itself costs, around a model that computes nothing.

Run: `python benchmarks/engine_overhead.py [MODEL]`. Prints microseconds a step and a token for 1, 4
and 16 requests, by vocabulary and by sampling parameters. Then it prints the seconds from start to
a ready engine process, and the tokens a second over its socket. With a model it prints its
throughput too.
"""

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nestling.engine.batch_builder import build_batch
from nestling.engine.clients.client import EngineClient
from nestling.engine.clients.messages import EngineEvent, SamplingParams, Submit
from nestling.engine.clients.process_engine import ProcessEngine
from nestling.engine.config import EngineConfig
from nestling.engine.kv.manager import KVCacheManager
from nestling.engine.loop import EngineLoop
from nestling.engine.request import Request
from nestling.engine.runners.runner import Logits
from nestling.engine.scheduler import Scheduler
from nestling.model.batch import ForwardBatch

NUM_STEPS = 400
FAKE_PROCESS = Path(__file__).parent.parent / "tests" / "engine" / "fake_worker.py"


class NullRunner:
    """A model with ready-made logits, so that only the engine's time is measured."""

    max_model_len = 4096
    num_blocks = num_sliding_blocks = 4096
    block_size = 16
    sliding_window = 512
    max_rows = 256
    weight_bytes_per_token = weight_bytes_read = 0

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = self.num_text_tokens = vocab_size
        generator = np.random.default_rng(0)
        self._logits = generator.normal(0, 4, (16, vocab_size)).astype(np.float32)

    def execute(self, batch: ForwardBatch) -> Logits:
        return self._logits[: len(batch.logit_rows)]

    def part_seconds(self) -> dict[str, float]:
        return {}

    def score(self, token_ids: NDArray[np.int32]) -> Logits:
        raise NotImplementedError("only steps are measured")


def step_time_us(vocab_size: int, num_decode_requests: int, params: SamplingParams) -> float:
    """Return the mean time of a decode step."""
    events: list[EngineEvent] = []
    config = EngineConfig(model="-", max_num_seqs=16)
    loop = EngineLoop(NullRunner(vocab_size), config, events.extend)
    for i in range(num_decode_requests):
        loop.post(Submit(str(i), [1] * 10, params))
    for _ in range(3):
        loop.step()
    begin = time.perf_counter()
    for _ in range(NUM_STEPS):
        loop.step()
    return (time.perf_counter() - begin) / NUM_STEPS * 1e6


def long_context_us(num_decode_requests: int, num_tokens: int) -> float:
    """Return the median time to schedule, build and advance a decode step at such contexts."""
    kv = KVCacheManager(
        num_blocks=num_decode_requests * (num_tokens // 16 + 200),
        num_sliding_blocks=num_decode_requests * 40,
        block_size=16,
        sliding_window=512,
        max_rows=512,
    )
    scheduler = Scheduler(
        kv, max_num_seqs=num_decode_requests, max_num_batched_tokens=512, max_waiting=0
    )
    for i in range(num_decode_requests):
        request = Request(
            request_id=str(i),
            token_ids=[i] * num_tokens,
            num_prompt_tokens=num_tokens,
            sampling_params=SamplingParams(),
            max_tokens=3000,
            seed=0,
        )
        scheduler.add(request)
    times: list[float] = []
    while len(times) < NUM_STEPS:
        begin = time.perf_counter()
        output = scheduler.schedule()
        build_batch(output, kv)
        scheduler.advance(output)
        if output.num_decode_requests == num_decode_requests:
            times.append(time.perf_counter() - begin)
        for item in output.scheduled:
            if item.is_sampled:
                item.request.token_ids.append(1)
    return float(np.median(times)) * 1e6


async def one(client: EngineClient, name: str, prompt: list[int], num_tokens: int) -> int:
    params = SamplingParams(max_tokens=num_tokens, temperature=0.8, top_p=0.95)
    count = 0
    async for output in client.generate(Submit(name, prompt, params)):
        count += len(output.token_ids)
    return count


async def throughput(client: EngineClient, num_requests: int, num_tokens: int) -> float:
    """Return the tokens a second of all requests together, first tokens included."""
    begin = time.perf_counter()
    jobs = (
        one(client, str(i), [1 + i, 2, 3, 4, 5, 6, 7, 8], num_tokens) for i in range(num_requests)
    )
    counts = await asyncio.gather(*jobs)
    return sum(counts) / (time.perf_counter() - begin)


async def measure_process(config: EngineConfig, argv: tuple[str, ...] | None) -> None:
    client = ProcessEngine(config) if argv is None else ProcessEngine(config, argv=argv)
    begin = time.perf_counter()
    await client.start()
    print(f"  ready after {time.perf_counter() - begin:.3f} s")
    num_tokens = min(200, client.info.max_model_len - 8)
    for num_requests in (1, 4, 16):
        rate = await throughput(client, num_requests, num_tokens)
        print(f"  {num_requests:2} requests: {rate:8.1f} tokens/s")
    await client.stop()


def main() -> None:
    kinds = {
        "greedy": SamplingParams(max_tokens=4000, temperature=0),
        "top_p 0.95": SamplingParams(max_tokens=4000, temperature=0.8, top_p=0.95),
        "penalties": SamplingParams(max_tokens=4000, repetition_penalty=1.1, presence_penalty=0.5),
        "20 logprobs": SamplingParams(max_tokens=4000, logprobs=20),
    }
    for vocab_size in (4096, 262_144):
        for name, params in kinds.items():
            times = [step_time_us(vocab_size, n, params) for n in (1, 4, 16)]
            shown = ", ".join(f"{t:7.0f}" for t in times)
            print(f"vocabulary {vocab_size:6} {name:12} us a step at 1, 4, 16 requests: {shown}")
    shown = ", ".join(f"{long_context_us(64, n):.0f}" for n in (256, 4096, 16_384))
    print(f"64 requests, scheduler and cache alone, us a step at 256, 4096, 16384 tokens: {shown}")
    fake = (sys.executable, str(FAKE_PROCESS))
    print("fake model in a process")
    asyncio.run(measure_process(EngineConfig(model="fake", num_blocks=1024, block_size=16), fake))
    for model in sys.argv[1:]:
        print(model)
        asyncio.run(measure_process(EngineConfig(model=model), None))


if __name__ == "__main__":
    main()
