"""An engine without a model: it answers each request with given tokens and notes what came."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from nestling.chat.service import ChatService, ModelIdentity
from nestling.chat.tokenizer import Tokenizer
from nestling.engine.clients.messages import EngineInfo, Stats, Submit, TokenLogprobs, TokenOutput
from nestling.errors import EngineError


class FakeEngine:
    """Answers every request with the same tokens, `step` at a time; notes what was asked."""

    def __init__(
        self,
        token_ids: Sequence[int],
        *,
        step: int = 1,
        end: str = "length",
        cached: Sequence[int] = (0,),
    ) -> None:
        self.info = EngineInfo(
            vocab_size=4096, max_model_len=128, max_num_seqs=4, num_blocks=64, block_size=16
        )
        self.token_ids = list(token_ids)
        self.step = step
        self.end = end
        self.cached = cached
        """Cached tokens by choice."""
        self.submits: list[Submit] = []
        self.num_live = 0

    async def start(self) -> None:
        """Nothing to load."""

    async def generate(self, submit: Submit) -> AsyncGenerator[TokenOutput, None]:
        self.submits.append(submit)
        self.num_live += 1
        try:
            for first in range(0, len(self.token_ids), self.step):
                await asyncio.sleep(0)
                part = self.token_ids[first : first + self.step]
                is_last = first + self.step >= len(self.token_ids)
                if is_last and self.end == "error":
                    raise EngineError("broken")
                wanted = submit.sampling_params.logprobs is not None
                yield TokenOutput(
                    submit.request_id,
                    part,
                    self.end if is_last else None,  # type: ignore[arg-type]
                    [TokenLogprobs(token_id, -0.5) for token_id in part] if wanted else None,
                    self.cached[submit.sampling_params.choice_index % len(self.cached)],
                )
        finally:
            self.num_live -= 1

    async def abort(self, request_id: str) -> None:
        """Nothing to stop: closing the generator does."""

    async def health(self) -> Stats:
        return Stats(0, *range(1, 14))

    async def stop(self) -> None:
        """Nothing to end."""


def service_of(engine: FakeEngine, tokenizer: Tokenizer) -> ChatService:
    """A service named like the embedded model."""
    return ChatService(
        engine, tokenizer, ModelIdentity("nestling-nano", (), "fp_1", tokenizer.eos_token_ids)
    )
