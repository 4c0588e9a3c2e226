"""Bodies of answers: the `chat.completion` object, the `chat.completion.chunk` frames, usage.

Key for key as the hosted API and OpenAI send them (docs/api.md); pure functions of the deltas.
"""

import secrets
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from nestling.accounts.money import credits_of, usd
from nestling.api.answers import Amount, Answer, Count
from nestling.chat.request import (
    AlternativeToken,
    ChatDelta,
    ChatFinishReason,
    ChatModel,
    ChatUsage,
    TokenLogprob,
)
from nestling.errors import EngineError

_ALPHANUMERICS = string.ascii_letters + string.digits
DONE_FRAME = b"data: [DONE]\n\n"
ReplyId = Annotated[str, msgspec.Meta(pattern="^gen-[0-9]+-[0-9A-Za-z]{20}$")]


@dataclass(frozen=True, slots=True)
class ReplyIdentity:
    """Tells what is the same in every body of one reply."""

    id: str
    created: int
    """Unix time in seconds."""
    model: str
    system_fingerprint: str


def new_identity(model: ChatModel) -> ReplyIdentity:
    """Return a fresh identity: `gen-<unix seconds>-<20 alphanumerics>`."""
    created = int(time.time())
    reply_id = f"gen-{created}-{_random_tail()}"
    return ReplyIdentity(reply_id, created, model.model_id, model.system_fingerprint)


def _random_tail() -> str:
    """Return 20 random alphanumerics from one draw of entropy, which is what takes the time."""
    number, digits = secrets.randbits(128), []
    for _ in range(20):
        number, digit = divmod(number, len(_ALPHANUMERICS))
        digits.append(_ALPHANUMERICS[digit])
    return "".join(digits)


class PromptTokensDetails(Answer):
    """Prompt tokens by kind."""

    cached_tokens: Count
    audio_tokens: Count


class CompletionTokensDetails(Answer):
    """Completion tokens by kind: this model has one."""

    reasoning_tokens: Count
    audio_tokens: Count
    accepted_prediction_tokens: Count
    rejected_prediction_tokens: Count


class Usage(Answer):
    """The counts of a reply."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class Charged(Answer):
    """Tells what a reply is charged."""

    credits_used: Count
    usd_spent: Amount


class Meta(Answer):
    """The hosted API's part of a reply."""

    usage: Charged


class Token(Answer):
    """A token and its log-probability; `bytes` is null if it stands for no text."""

    token: str
    logprob: float
    bytes: list[int] | None


class Position(Token):
    """The token of one position, and the most likely ones there."""

    top_logprobs: list[Token]


class Logprobs(Answer):
    """The log-probabilities of a choice."""

    content: list[Position]
    refusal: None


class Message(Answer):
    """Tells what the assistant said."""

    role: Literal["assistant"]
    content: str
    refusal: None
    reasoning_content: None


class ChatChoice(Answer):
    """One choice of a chat completion."""

    index: Count
    message: Message
    logprobs: Logprobs | None
    finish_reason: ChatFinishReason


class ChatCompletion(Answer):
    """A whole reply of the model."""

    id: ReplyId
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    meta: Meta


class Delta(Answer):
    """Tells what a chunk adds to its choice."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Answer):
    """One choice's news in a chunk."""

    index: Count
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: ChatFinishReason | None


class ChunkHead(Answer):
    """Tells what every chunk of a reply begins with."""

    id: ReplyId
    object: str
    created: int
    model: str
    system_fingerprint: str


_NO_DETAILS = CompletionTokensDetails(0, 0, 0, 0)


def usage_of(usage: ChatUsage) -> Usage:
    """Return the `usage` object."""
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        PromptTokensDetails(usage.cached_tokens, 0),
        _NO_DETAILS,
    )


def meta_of(nano_usd: int) -> Meta:
    """Return the `meta` object: what the reply is charged with."""
    return Meta(Charged(credits_of(nano_usd), usd(nano_usd)))


def logprobs_of(logprobs: Sequence[TokenLogprob] | None) -> Logprobs | None:
    """Return the `logprobs` object of a choice, None if none were asked for."""
    if logprobs is None:
        return None
    return Logprobs([_position(item) for item in logprobs], None)


def _position(logprob: TokenLogprob) -> Position:
    chosen = _token(logprob.chosen)
    top = [_token(other) for other in logprob.top]
    return Position(chosen.token, chosen.logprob, chosen.bytes, top)


def _token(token: AlternativeToken) -> Token:
    raw = token.token_bytes
    return Token(token.token, max(token.logprob, -9999.0), None if raw is None else list(raw))


@dataclass(slots=True)
class CollectedChoice:
    """One choice, as far as it has come."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: ChatFinishReason | None = None

    @property
    def text(self) -> str:
        """Return what it says."""
        return "".join(self.texts)


class Collector:
    """Collects the deltas of all choices into one answer; formats say how it looks."""

    object_name: str
    answer_type: Callable[..., Answer]

    def __init__(self, identity: ReplyIdentity, num_choices: int, *, logprobs: bool) -> None:
        self._identity = identity
        self._choices = [CollectedChoice() for _ in range(num_choices)]
        self._has_logprobs = logprobs

    def choice(self, index: int, choice: CollectedChoice, *, logprobs: bool) -> Answer:
        """Return how a finished choice looks."""
        raise NotImplementedError

    def add(self, delta: ChatDelta) -> None:
        """Take the next delta of any choice."""
        choice = self._choices[delta.choice_index]
        choice.texts.append(delta.text)
        choice.logprobs.extend(delta.logprobs or ())
        choice.finish_reason = delta.finish_reason

    def body(self, usage: ChatUsage, nano_usd: int) -> bytes:
        """Return the JSON of the finished reply; raises `EngineError` if a choice has no end."""
        for index, choice in enumerate(self._choices):
            if choice.finish_reason is None:
                raise EngineError(f"the stream ended before choice {index} did")
        identity, has_logprobs = self._identity, self._has_logprobs
        answer = self.answer_type(
            id=identity.id,
            object=self.object_name,
            created=identity.created,
            model=identity.model,
            choices=[self.choice(i, c, logprobs=has_logprobs) for i, c in enumerate(self._choices)],
            usage=usage_of(usage),
            system_fingerprint=identity.system_fingerprint,
            meta=meta_of(nano_usd),
        )
        return msgspec.json.encode(answer)


class ChatCollector(Collector):
    """Makes a `chat.completion`."""

    object_name = "chat.completion"
    answer_type = ChatCompletion

    def choice(self, index: int, choice: CollectedChoice, *, logprobs: bool) -> ChatChoice:
        """Return the message and the logprobs."""
        assert choice.finish_reason is not None
        message = Message("assistant", choice.text, None, None)
        found = logprobs_of(choice.logprobs if logprobs else None)
        return ChatChoice(index, message, found, choice.finish_reason)


class FrameEncoder:
    """Makes the SSE frames of one streamed reply; what never changes is encoded once."""

    object_name: str

    def __init__(self, identity: ReplyIdentity, *, include_usage: bool) -> None:
        of = identity
        head = msgspec.json.encode(
            ChunkHead(of.id, self.object_name, of.created, of.model, of.system_fingerprint)
        )
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._encode = msgspec.json.Encoder().encode

    def opening(self, num_choices: int) -> bytes:
        """Return what is sent with the head."""
        raise NotImplementedError

    def delta(self, delta: ChatDelta) -> bytes:
        """Return the frames of a delta, if it has any."""
        raise NotImplementedError

    def usage(self, usage: ChatUsage, nano_usd: int) -> bytes:
        """Return the frame that is sent last, and only to those who asked for it."""
        counts = self._encode(usage_of(usage))
        meta = self._encode(meta_of(nano_usd))
        return self._head + b'],"usage":' + counts + b',"meta":' + meta + b"}\n\n"

    def frame(self, choice: Answer) -> bytes:
        """Return the frame of one choice's news."""
        return self._head + self._encode(choice) + self._tail


_NOTHING = Delta()


class ChunkEncoder(FrameEncoder):
    """Makes `chat.completion.chunk` frames."""

    object_name = "chat.completion.chunk"

    def opening(self, num_choices: int) -> bytes:
        """Return the first frame of each choice, the only one that carries a role."""
        first = Delta("assistant", "")
        chunks = [ChunkChoice(index, first, None, None) for index in range(num_choices)]
        return b"".join(self.frame(chunk) for chunk in chunks)

    def delta(self, delta: ChatDelta) -> bytes:
        """Return the frames of a delta: its text, if it has any, and its end, if it is one."""
        frames = b""
        index = delta.choice_index
        if delta.text or delta.logprobs:
            said = Delta(UNSET, delta.text)
            frames = self.frame(ChunkChoice(index, said, logprobs_of(delta.logprobs), None))
        if delta.finish_reason is not None:
            frames += self.frame(ChunkChoice(index, _NOTHING, None, delta.finish_reason))
        return frames
