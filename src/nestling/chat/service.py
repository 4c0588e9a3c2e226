"""The one way from messages to text: render, submit to the engine, detokenize, stop.

Runs on the web process's asyncio loop; tokenizing goes to a thread. Knows no JSON and no HTTP.
Every refusal that can be known beforehand is raised by `prepare`, before any output.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from nestling.chat.choice import Choice
from nestling.chat.request import ChatDelta, ChatRequest, ChatUsage
from nestling.chat.template import render_prompt
from nestling.chat.tokenizer import Tokenizer
from nestling.engine.client import EngineClient
from nestling.engine.messages import SamplingParams
from nestling.errors import ContextLengthExceededError, InvalidRequestError
from nestling.weights.checkpoint import Checkpoint

DEFAULT_MAX_TOKENS = 512
"""The API page's default for both max_tokens and max_completion_tokens."""
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class ModelIdentity:
    """What is known of the model that answers; `fingerprint` changes with weights and engine."""

    model_id: str
    aliases: tuple[str, ...]
    fingerprint: str
    end_token_ids: tuple[int, ...]


def open_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """The checkpoint's tokenizer, bounded to the ids that are text; None if it has none."""
    if checkpoint.vocabulary is None:
        return None
    return Tokenizer(checkpoint.vocabulary, checkpoint.config.num_text_tokens)


def end_token_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Every id that ends an answer, by the configuration or by the vocabulary, ascending."""
    vocabulary = checkpoint.vocabulary
    by_vocabulary = vocabulary.eos_token_ids if vocabulary else ()
    return tuple(sorted({*checkpoint.config.eos_token_ids, *by_vocabulary}))


class ChatService:
    """Answers chat requests with one engine and its tokenizer; a `chat.request.ChatModel`."""

    def __init__(self, engine: EngineClient, tokenizer: Tokenizer, identity: ModelIdentity) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self._identity = identity

    @property
    def model_id(self) -> str:
        """What really answers."""
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

    async def prepare(self, request: ChatRequest) -> "PreparedChat":
        """The request as tokens, ready to stream.

        Raises ContextLengthExceededError if the prompt leaves no room for an answer, and
        InvalidRequestError for a `logit_bias` key that is no token.
        """
        return await asyncio.to_thread(self._prepare, request)

    def _prepare(self, request: ChatRequest) -> "PreparedChat":
        limit = self.max_model_len
        least = sum(
            self.tokenizer.min_tokens(message.text.strip(), limit) for message in request.messages
        )
        if least >= limit:
            raise _too_long(f"at least {least}", limit)
        prompt = render_prompt(request.messages, self.tokenizer)
        if len(prompt) >= limit:
            raise _too_long(str(len(prompt)), limit)
        wanted = request.max_tokens if request.max_tokens is not None else DEFAULT_MAX_TOKENS
        params = SamplingParams(
            max_tokens=min(wanted, limit - len(prompt)),
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            top_a=request.top_a,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            logit_bias=resolve_logit_bias(request.logit_bias, self.tokenizer),
            seed=request.seed if request.seed is not None else 1 + secrets.randbelow(MAX_SEED),
            logprobs=request.top_logprobs if request.logprobs else None,
            stop_token_ids=self._identity.end_token_ids,
        )
        return PreparedChat(self, prompt, params, request)


def _too_long(num_prompt_tokens: str, limit: int) -> ContextLengthExceededError:
    return ContextLengthExceededError(
        f"This model's context holds {limit} tokens, one of them for the answer at least, but the "
        f"messages have {num_prompt_tokens} tokens. Please shorten the messages.",
        param="messages",
    )


def resolve_logit_bias(bias: Mapping[str, float], tokenizer: Tokenizer) -> dict[int, float]:
    """Biases by token id. A key of digits is an id, other text biases each of its tokens."""
    resolved: dict[int, float] = {}
    for key, value in bias.items():
        if key.isascii() and key.isdecimal():
            ids: Sequence[int] = [_token_id(key, tokenizer.num_text_tokens)]
        else:
            ids = tokenizer.encode(key)
        if not ids:
            raise InvalidRequestError(
                "Invalid 'logit_bias': an empty key names no token. Expected a token id or text.",
                param="logit_bias",
                code="invalid_value",
            )
        resolved.update(dict.fromkeys(ids, value))
    return resolved


def _token_id(key: str, num_text_tokens: int) -> int:
    if len(key) > len(str(num_text_tokens)) or int(key) >= num_text_tokens:
        raise InvalidRequestError(
            f"Invalid 'logit_bias': token id {key[:20]} is outside the vocabulary. "
            f"Expected an id from 0 to {num_text_tokens - 1}.",
            param="logit_bias",
            code="invalid_value",
        )
    return int(key)


class PreparedChat:
    """A chat that was accepted; `stream` may be called once."""

    def __init__(
        self,
        service: ChatService,
        prompt_token_ids: list[int],
        sampling_params: SamplingParams,
        request: ChatRequest,
    ) -> None:
        self._num_prompt_tokens = len(prompt_token_ids)
        self._choices = [
            Choice(service.engine, service.tokenizer, prompt_token_ids, params, request.stop)
            for params in _by_choice(sampling_params, request.n)
        ]

    @property
    def usage(self) -> ChatUsage:
        """The counts so far; final when the stream has ended."""
        return ChatUsage(
            prompt_tokens=self._num_prompt_tokens,
            completion_tokens=sum(choice.num_tokens for choice in self._choices),
            cached_tokens=self._choices[0].num_cached_tokens,
        )

    async def stream(self) -> AsyncGenerator[ChatDelta, None]:
        """Text as it becomes certain, of all choices as they come; each ends with a finish_reason.

        Raises the engine's error if it fails. Closing the generator aborts what still runs.
        """
        sources = [choice.deltas() for choice in self._choices]
        merged = sources[0] if len(sources) == 1 else _merge(sources)
        async with contextlib.aclosing(merged) as deltas:
            async for delta in deltas:
                yield delta


def _by_choice(params: SamplingParams, n: int) -> list[SamplingParams]:
    return [msgspec.structs.replace(params, choice_index=index) for index in range(n)]


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
