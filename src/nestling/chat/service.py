"""The one way from messages to text: render, submit to the engine, detokenize, stop.

Runs on the web process's asyncio loop; tokenizing goes to a thread. Knows no JSON and no HTTP.
Every refusal that can be known beforehand is raised by `prepare`, before any output.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

import msgspec

from nestling.chat.choice import Choice
from nestling.chat.files import FileLimits, FileReader
from nestling.chat.prompts import chat_prompt, resolve_logit_bias, text_prompt
from nestling.chat.request import ChatDelta, ChatRequest, ChatUsage, CompletionRequest
from nestling.chat.tokenizer import Tokenizer
from nestling.engine.clients.client import EngineClient
from nestling.engine.clients.messages import SamplingParams


@dataclass(frozen=True)
class ModelIdentity:
    """Describes the model that answers; `fingerprint` changes with weights and engine."""

    model_id: str
    aliases: tuple[str, ...]
    fingerprint: str
    end_token_ids: tuple[int, ...]


class ChatService:
    """Answers chat requests with one engine and its tokenizer; a `chat.request.ChatModel`."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        identity: ModelIdentity,
        file_limits: FileLimits | None = None,
    ) -> None:
        self._files = FileReader(file_limits or FileLimits(), lambda: self.max_model_len, tokenizer)
        self.engine = engine
        self.tokenizer = tokenizer
        self._identity = identity

    @property
    def model_id(self) -> str:
        """Return what really answers."""
        return self._identity.model_id

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names under which a request may ask for it."""
        return self._identity.aliases

    @property
    def system_fingerprint(self) -> str:
        """`fp_` and hex digits."""
        return self._identity.fingerprint

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""
        return self.engine.info.max_model_len

    @property
    def num_text_tokens(self) -> int:
        """Ids that prompts and biases may name: 0 up to this."""
        return self.tokenizer.num_text_tokens

    async def prepare(self, request: ChatRequest | CompletionRequest) -> "PreparedReply":
        """The request as tokens, ready to stream.

        Raises ContextLengthExceededError if a prompt leaves no room for an answer, and
        InvalidRequestError for a file that cannot be read or ids that are no tokens.
        """
        if isinstance(request, ChatRequest):
            messages = await self._files.read_all(request.messages)
            request = replace(request, messages=messages)
        return await asyncio.to_thread(self._prepare, request)

    def _prepare(self, request: ChatRequest | CompletionRequest) -> "PreparedReply":
        limit = self.max_model_len
        if isinstance(request, ChatRequest):
            prompts = [chat_prompt(request.messages, self.tokenizer, limit)]
        else:
            named = _named(request.prompts)
            prompts = [text_prompt(name, text, self.tokenizer, limit) for name, text in named]
        params = msgspec.structs.replace(
            request.sampling,
            logit_bias=resolve_logit_bias(request.logit_bias, self.tokenizer),
            stop_token_ids=self._identity.end_token_ids,
        )
        return PreparedReply(self, prompts, params, request)


def _named(prompts: Sequence[str | tuple[int, ...]]) -> list[tuple[str, str | tuple[int, ...]]]:
    """Prompts with the names that messages call them by."""
    if len(prompts) == 1:
        return [("prompt", prompts[0])]
    return [(f"prompt[{i}]", prompt) for i, prompt in enumerate(prompts)]


class PreparedReply:
    """A request that was accepted; `stream` may be called once."""

    def __init__(
        self,
        service: ChatService,
        prompts: Sequence[list[int]],
        sampling_params: SamplingParams,
        request: ChatRequest | CompletionRequest,
    ) -> None:
        self.num_prompt_tokens = sum(len(prompt) for prompt in prompts)
        self._n = request.n
        self._choices = [
            Choice(
                service.engine, service.tokenizer, prompt, params, request.stop, request.cache_salt
            )
            for prompt, params in _by_choice(prompts, sampling_params, request.n, service)
        ]
        self._leads = [""] * len(prompts)
        if isinstance(request, CompletionRequest) and request.echo:
            self._leads = [
                prompt if isinstance(prompt, str) else service.tokenizer.decode(prompt)
                for prompt in request.prompts
            ]

    @property
    def num_choices(self) -> int:
        """Over all prompts."""
        return len(self._choices)

    @property
    def max_completion_tokens(self) -> int:
        """The most that all choices together can get."""
        return sum(choice.max_tokens for choice in self._choices)

    @property
    def usage(self) -> ChatUsage:
        """The counts so far; final when the stream has ended."""
        return ChatUsage(
            prompt_tokens=self.num_prompt_tokens,
            completion_tokens=sum(choice.num_tokens for choice in self._choices),
            cached_tokens=sum(choice.num_cached_tokens for choice in self._choices[:: self._n]),
        )

    async def stream(self) -> AsyncGenerator[ChatDelta, None]:
        """Text as it becomes certain, of all choices as they come; each ends with a finish_reason.

        Raises the engine's error if it fails. Closing the generator aborts what still runs.
        """
        sources = [
            _led_by(self._leads[index // self._n], choice.deltas())
            for index, choice in enumerate(self._choices)
        ]
        merged = sources[0] if len(sources) == 1 else _merge(sources)
        async with contextlib.aclosing(merged) as deltas:
            async for delta in deltas:
                yield delta


def _by_choice(
    prompts: Sequence[list[int]], params: SamplingParams, n: int, service: ChatService
) -> list[tuple[list[int], SamplingParams]]:
    """Prompt and parameters of every choice, in the order of their indices."""
    limit = service.max_model_len
    return [
        (
            prompt,
            msgspec.structs.replace(
                params,
                choice_index=number * n + i,
                max_tokens=min(params.max_tokens, limit - len(prompt)),
            ),
        )
        for number, prompt in enumerate(prompts)
        for i in range(n)
    ]


def _led_by(lead: str, source: AsyncGenerator[ChatDelta, None]) -> AsyncGenerator[ChatDelta, None]:
    """The source with `lead` before its first text."""
    return _with_lead(lead, source) if lead else source


async def _with_lead(
    lead: str, source: AsyncGenerator[ChatDelta, None]
) -> AsyncGenerator[ChatDelta, None]:
    async with contextlib.aclosing(source) as deltas:
        async for delta in deltas:
            yield replace(delta, text=lead + delta.text) if lead else delta
            lead = ""


async def _merge(
    sources: Sequence[AsyncGenerator[ChatDelta, None]],
) -> AsyncGenerator[ChatDelta, None]:
    """Deltas of all sources as they come; the first error ends all of them."""
    queue: asyncio.Queue[ChatDelta | BaseException | None] = asyncio.Queue(maxsize=len(sources))

    async def pump(source: AsyncGenerator[ChatDelta, None]) -> None:
        end: BaseException | None = None
        try:
            async with contextlib.aclosing(source) as deltas:
                async for delta in deltas:
                    await queue.put(delta)
        except Exception as error:  # noqa: BLE001 - handed over to the reader, who raises it
            end = error
        await queue.put(end)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    try:
        num_live = len(tasks)
        while num_live:
            item = await queue.get()
            if isinstance(item, ChatDelta):
                yield item
            elif item is None:
                num_live -= 1
            else:
                raise item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
