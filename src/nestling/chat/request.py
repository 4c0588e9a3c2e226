"""The validated requests and their answers, between `api/` (or `LLM`) and the service.

Frozen: whoever builds a request has checked every field and bound of docs/api.md, and nothing
behind it checks again. Only what needs the tokenizer is left to `ChatModel.prepare`: the keys of
`logit_bias` and the length of the prompt. Nothing here knows HTTP or JSON.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from nestling.chat.template import ChatMessage
from nestling.engine.clients.messages import SamplingParams

ChatFinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """The engine's sampling parameters, and those that are about text or choices."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    """Without `logit_bias`, `choice_index` and end tokens, which the service adds."""
    stop: tuple[str, ...] = ()
    """At most 4, none of them empty."""
    logit_bias: Mapping[str, float] = field(default_factory=dict)
    """Values in [-100, 100]. A key of ASCII digits is a token id, any other is text to bias."""
    n: int = 1
    """Number of choices; choice i samples with `SamplingParams.choice_index` i."""
    cache_salt: str = ""
    """Whose request it is: what the engine keeps of prompts serves requests of equal salt alone."""

    @property
    def wants_logprobs(self) -> bool:
        """Whether deltas carry log-probabilities."""
        return self.sampling.logprobs is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest(GenerationRequest):
    """Answer a conversation."""

    messages: tuple[ChatMessage, ...]
    """At least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest(GenerationRequest):
    """Continue texts. Choice i of prompt p has the index p * n + i."""

    prompts: tuple[str | tuple[int, ...], ...]
    """At least one: plain text, or token ids of which nothing has been checked."""
    echo: bool = False
    """Each answer begins with its prompt's own text, or with that of its ids; not together with
    `logprobs`."""


@dataclass(frozen=True, slots=True)
class AlternativeToken:
    """One likely token at a position. `token_bytes` is None for a token that stands for no text."""

    token: str
    token_bytes: bytes | None
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The chosen token of one position and the `top_logprobs` most likely ones, best first."""

    chosen: AlternativeToken
    top: tuple[AlternativeToken, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """New text of one choice. The last delta of a choice, and only that, has a `finish_reason`.

    `text` may be empty; it never ends inside a character and holds no part of a stop string.
    `logprobs` are those of the tokens behind `text`, None if the request asked for none.
    """

    choice_index: int
    text: str
    finish_reason: ChatFinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class ChatUsage:
    """Tokens of the whole request; `completion_tokens` is the sum over its choices."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt's, those found in the prefix cache."""


class PreparedGeneration(Protocol):
    """A request that fits the model and has not been submitted yet."""

    @property
    def num_choices(self) -> int:
        """Over all prompts."""
        ...

    @property
    def num_prompt_tokens(self) -> int:
        """Return the number of tokens of all prompts, each counted once."""
        ...

    @property
    def max_completion_tokens(self) -> int:
        """The most that all choices together can get."""
        ...

    @property
    def usage(self) -> ChatUsage:
        """The counts so far; final when the stream has ended."""
        ...

    def stream(self) -> AsyncGenerator[ChatDelta, None]:
        """Submit the request and yield its deltas; to be called once.

        Choices may come interleaved. Raises the `NestlingError` that fits if the engine refuses or
        fails, `OverloadedError` among them as the first thing. Closing the generator or cancelling
        the task that waits on it aborts every choice.
        """
        ...


class ChatModel(Protocol):
    """The model that answers, as `api/` sees it."""

    @property
    def model_id(self) -> str:
        """Return what really answers, such as "nestling-nano"; stands in every reply's `model`."""
        ...

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names under which a request may ask for it; may be empty."""
        ...

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""
        ...

    @property
    def num_text_tokens(self) -> int:
        """Ids that prompts and biases may name: 0 up to this."""
        ...

    @property
    def system_fingerprint(self) -> str:
        """`fp_` and hex digits that change with the model, its quantisation and the engine."""
        ...

    async def prepare(self, request: ChatRequest | CompletionRequest) -> PreparedGeneration:
        """Read attached files, render and tokenize the prompt, off the event loop.

        Raises `ContextLengthExceededError` (both numbers in the message) if no token of answer
        would fit, `InvalidRequestError` naming the file that cannot be read, the token id of a
        prompt or of `logit_bias` that is outside the vocabulary, or a bias on text without a token;
        `OverloadedError` if it can tell already.
        """
        ...
