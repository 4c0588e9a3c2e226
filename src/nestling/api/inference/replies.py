"""Bodies of answers: the `chat.completion` object, the `chat.completion.chunk` frames, usage.

Key for key as the hosted API and OpenAI send them (docs/api.md); pure functions of the deltas.
"""

import secrets
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from nestling.accounts.money import credits_of, usd
from nestling.chat.request import AlternativeToken, ChatDelta, ChatModel, ChatUsage, TokenLogprob
from nestling.errors import EngineError

_ALPHANUMERICS = string.ascii_letters + string.digits
DONE_FRAME = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ReplyIdentity:
    """What is the same in every body of one reply."""

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


def usage_body(usage: ChatUsage) -> dict[str, Any]:
    """Return the `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def cost_body(nano_usd: int) -> dict[str, Any]:
    """Return the `meta` object: what the reply is charged with."""
    return {"usage": {"credits_used": credits_of(nano_usd), "usd_spent": usd(nano_usd)}}


def logprobs_body(logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    """Return the `logprobs` object of a choice, None if none were asked for."""
    if logprobs is None:
        return None
    content = [
        {**_token_body(item.chosen), "top_logprobs": [_token_body(other) for other in item.top]}
        for item in logprobs
    ]
    return {"content": content, "refusal": None}


def _token_body(token: AlternativeToken) -> dict[str, Any]:
    raw = token.token_bytes
    return {
        "token": token.token,
        "logprob": max(token.logprob, -9999.0),
        "bytes": None if raw is None else list(raw),
    }


@dataclass(slots=True)
class CollectedChoice:
    """One choice, as far as it has come."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """What it says."""
        return "".join(self.texts)


class Collector:
    """Collects the deltas of all choices into one answer; formats say how a choice looks."""

    object_name: str

    def __init__(self, identity: ReplyIdentity, num_choices: int, *, logprobs: bool) -> None:
        self._identity = identity
        self._choices = [CollectedChoice() for _ in range(num_choices)]
        self._has_logprobs = logprobs

    def choice_body(self, choice: CollectedChoice, *, logprobs: bool) -> dict[str, Any]:
        """Return what is special to the format: the text and its logprobs, if asked for."""
        raise NotImplementedError

    def add(self, delta: ChatDelta) -> None:
        """Take the next delta of any choice."""
        choice = self._choices[delta.choice_index]
        choice.texts.append(delta.text)
        choice.logprobs.extend(delta.logprobs or ())
        choice.finish_reason = delta.finish_reason

    def body(self, usage: ChatUsage, nano_usd: int) -> bytes:
        """Return the JSON of the finished reply; raises `EngineError` if a choice has no end."""
        identity = self._identity
        return msgspec.json.encode(
            {
                "id": identity.id,
                "object": self.object_name,
                "created": identity.created,
                "model": identity.model,
                "choices": [self._choice_body(i) for i in range(len(self._choices))],
                "usage": usage_body(usage),
                "system_fingerprint": identity.system_fingerprint,
                "meta": cost_body(nano_usd),
            }
        )

    def _choice_body(self, index: int) -> dict[str, Any]:
        choice = self._choices[index]
        if choice.finish_reason is None:
            raise EngineError(f"the stream ended before choice {index} did")
        special = self.choice_body(choice, logprobs=self._has_logprobs)
        return {"index": index, **special, "finish_reason": choice.finish_reason}


class ChatCollector(Collector):
    """Makes a `chat.completion`."""

    object_name = "chat.completion"

    def choice_body(self, choice: CollectedChoice, *, logprobs: bool) -> dict[str, Any]:
        """Return the message and the logprobs."""
        return {
            "message": {
                "role": "assistant",
                "content": choice.text,
                "refusal": None,
                "reasoning_content": None,
            },
            "logprobs": logprobs_body(choice.logprobs if logprobs else None),
        }


class FrameEncoder:
    """Makes the SSE frames of one streamed reply; what never changes is encoded once."""

    object_name: str

    def __init__(self, identity: ReplyIdentity, *, include_usage: bool) -> None:
        head = msgspec.json.encode(
            {
                "id": identity.id,
                "object": self.object_name,
                "created": identity.created,
                "model": identity.model,
                "system_fingerprint": identity.system_fingerprint,
            }
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
        counts = self._encode(usage_body(usage))
        cost = self._encode(cost_body(nano_usd))
        return self._head + b'],"usage":' + counts + b',"meta":' + cost + b"}\n\n"

    def frame(self, choice: dict[str, Any]) -> bytes:
        """Return the frame of one choice's news."""
        return self._head + self._encode(choice) + self._tail


class ChunkEncoder(FrameEncoder):
    """Makes `chat.completion.chunk` frames."""

    object_name = "chat.completion.chunk"

    def opening(self, num_choices: int) -> bytes:
        """Return the first frame of each choice, the only one that carries a role."""
        first = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(index, first, None, None) for index in range(num_choices))

    def delta(self, delta: ChatDelta) -> bytes:
        """Return the frames of a delta: its text, if it has any, and its end, if it is one."""
        frames = b""
        index = delta.choice_index
        if delta.text or delta.logprobs:
            logprobs = logprobs_body(delta.logprobs)
            frames = self._chunk(index, {"content": delta.text}, logprobs, None)
        if delta.finish_reason is not None:
            frames += self._chunk(index, {}, None, delta.finish_reason)
        return frames

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        logprobs: dict[str, Any] | None,
        finish_reason: str | None,
    ) -> bytes:
        return self.frame(
            {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        )
