"""What several engine tests share: a stepped loop, and what one request alone must give."""

import asyncio
from collections.abc import Callable, Sequence

from nestling.engine.clients.client import EngineClient
from nestling.engine.clients.messages import (
    EngineEvent,
    RequestFailed,
    SamplingParams,
    Stats,
    Submit,
    TokenOutput,
)
from nestling.engine.config import EngineConfig
from nestling.engine.loop import EngineLoop
from nestling.engine.sampler import RequestSampler

from .fake_model import NUM_TEXT_TOKENS, FakeRunner, load_fake_runner, oracle_logits


def config(**changes: object) -> EngineConfig:
    """A small engine; any field may be changed."""
    fields: dict[str, object] = {
        "model": "fake",
        "max_num_seqs": 4,
        "max_num_batched_tokens": 8,
        "max_waiting": 8,
        "num_blocks": 24,
        "block_size": 4,
    }
    return EngineConfig(**{**fields, **changes})  # type: ignore[arg-type]


def expected_tokens(
    prompt: Sequence[int], params: SamplingParams, max_tokens: int | None = None
) -> list[int]:
    """The tokens of the request computed alone, without scheduler, cache or loop."""
    assert params.seed is not None
    sampler = RequestSampler(
        params,
        seed=params.seed,
        prompt_token_ids=list(prompt),
        num_text_tokens=NUM_TEXT_TOKENS,
    )
    token_ids = list(prompt)
    for _ in range(params.max_tokens if max_tokens is None else max_tokens):
        token_ids.append(sampler.sample(oracle_logits(token_ids))[0])
        if token_ids[-1] in params.stop_token_ids:
            break
    return token_ids[len(prompt) :]


class SteppedLoop:
    """An engine loop stepped by hand, with every event kept by request."""

    def __init__(self, runner: FakeRunner | None = None, **changes: object) -> None:
        settings = config(**changes)
        self.runner = runner or load_fake_runner(settings)
        self.events: list[EngineEvent] = []
        self.loop = EngineLoop(self.runner, settings, self.events.extend, self._clock)
        self.now_s = 0.0
        """The loop's clock; it goes on by `step_s` with each reading."""
        self.step_s = 0.0

    def _clock(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def submit(
        self, request_id: str, prompt: list[int], *, cache_salt: str = "", **params: object
    ) -> None:
        sampling_params = SamplingParams(**params)  # type: ignore[arg-type]
        self.loop.post(Submit(request_id, prompt, sampling_params, cache_salt))

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.loop.step()

    def finish_all(self) -> None:
        """Step until nothing is live; a hang fails here."""
        for _ in range(20_000):
            self.loop.step()
            stats = self.stats()
            if not stats.num_running and not stats.num_waiting:
                return
        raise AssertionError("the loop never came to an end")

    def stats(self) -> Stats:
        return self.loop._stats(0)

    def outputs(self, request_id: str) -> list[TokenOutput]:
        return [
            event
            for event in self.events
            if isinstance(event, TokenOutput) and event.request_id == request_id
        ]

    def tokens(self, request_id: str) -> list[int]:
        return [token for output in self.outputs(request_id) for token in output.token_ids]

    def ends(self, request_id: str) -> list[str]:
        """Every last event of the request: a finish reason or a failure's code."""
        return [end for event in self.events if (end := end_of(event, request_id)) is not None]


def end_of(event: EngineEvent, request_id: str) -> str | None:
    """How this event ends the request, if it does."""
    if isinstance(event, TokenOutput) and event.request_id == request_id:
        return event.finish_reason
    if isinstance(event, RequestFailed) and event.request_id == request_id:
        return event.code
    return None


async def collect(
    client: EngineClient, request_id: str, prompt: list[int], params: SamplingParams
) -> tuple[list[int], str | None]:
    """All tokens of one request and its finish reason."""
    tokens: list[int] = []
    reason: str | None = None
    async for output in client.generate(Submit(request_id, prompt, params)):
        tokens += output.token_ids
        reason = output.finish_reason
    return tokens, reason


async def until(is_true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for what happens outside of this loop."""
    for _ in range(int(timeout_s / 0.01)):
        if is_true():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(f"it did not come true within {timeout_s} s")


async def until_idle(client: EngineClient, timeout_s: float = 5.0) -> Stats:
    """The first snapshot without a live request."""
    async with asyncio.timeout(timeout_s):
        while True:
            stats = await client.health()
            if not stats.num_running and not stats.num_waiting:
                return stats
            await asyncio.sleep(0.005)
