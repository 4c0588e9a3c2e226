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

from nestling.chat.request import AlternativeToken, ChatDelta, ChatModel, ChatUsage, TokenLogprob
from nestling.errors import EngineError

_ALPHANUMERICS = string.ascii_letters + string.digits
DONE_FRAME = b"data: [DONE]\n\n"
KEEP_ALIVE_COMMENT = b": keep-alive\n"
"""One newline: a comment-only block, ended by an empty line, crashes some clients."""


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
    tail = "".join(secrets.choice(_ALPHANUMERICS) for _ in range(20))
    return ReplyIdentity(f"gen-{created}-{tail}", created, model.model_id, model.system_fingerprint)


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
class _Choice:
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None


class Completion:
    """Collects the deltas of all choices into one `chat.completion`."""

    def __init__(self, identity: ReplyIdentity, num_choices: int, *, logprobs: bool) -> None:
        self._identity = identity
        self._choices = [_Choice() for _ in range(num_choices)]
        self._has_logprobs = logprobs

    def add(self, delta: ChatDelta) -> None:
        """Take the next delta of any choice."""
        choice = self._choices[delta.choice_index]
        choice.texts.append(delta.text)
        choice.logprobs.extend(delta.logprobs or ())
        choice.finish_reason = delta.finish_reason

    def body(self, usage: ChatUsage) -> bytes:
        """Return the JSON of the finished reply; raises `EngineError` if a choice has no end."""
        identity = self._identity
        return msgspec.json.encode(
            {
                "id": identity.id,
                "object": "chat.completion",
                "created": identity.created,
                "model": identity.model,
                "choices": [self._choice_body(i) for i in range(len(self._choices))],
                "usage": usage_body(usage),
                "system_fingerprint": identity.system_fingerprint,
            }
        )

    def _choice_body(self, index: int) -> dict[str, Any]:
        choice = self._choices[index]
        if choice.finish_reason is None:
            raise EngineError(f"the stream ended before choice {index} did")
        return {
            "index": index,
            "message": {
                "role": "assistant",
                "content": "".join(choice.texts),
                "refusal": None,
                "reasoning_content": None,
            },
            "logprobs": logprobs_body(choice.logprobs if self._has_logprobs else None),
            "finish_reason": choice.finish_reason,
        }


class ChunkEncoder:
    """Makes the SSE frames of one streamed reply; what never changes is encoded once."""

    def __init__(self, identity: ReplyIdentity, *, include_usage: bool) -> None:
        head = msgspec.json.encode(
            {
                "id": identity.id,
                "object": "chat.completion.chunk",
                "created": identity.created,
                "model": identity.model,
                "system_fingerprint": identity.system_fingerprint,
            }
        )
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._encode = msgspec.json.Encoder().encode

    def role(self, choice_index: int) -> bytes:
        """Return the first frame of a choice, the only one that carries a role."""
        return self._frame(choice_index, {"role": "assistant", "content": ""}, None, None)

    def delta(self, delta: ChatDelta) -> bytes:
        """Return the frames of a delta: its text, if it has any, and its end, if it is one."""
        frames = b""
        index = delta.choice_index
        if delta.text or delta.logprobs:
            logprobs = logprobs_body(delta.logprobs)
            frames = self._frame(index, {"content": delta.text}, logprobs, None)
        if delta.finish_reason is not None:
            frames += self._frame(index, {}, None, delta.finish_reason)
        return frames

    def usage(self, usage: ChatUsage) -> bytes:
        """Return the frame that is sent last, and only to those who asked for it."""
        body = self._encode(usage_body(usage))
        return self._head + b'],"usage":' + body + b"}\n\n"

    def _frame(
        self,
        index: int,
        delta: dict[str, str],
        logprobs: dict[str, Any] | None,
        finish_reason: str | None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self._head + self._encode(choice) + self._tail
