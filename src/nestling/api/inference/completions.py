"""The wire format of POST /v1/completions: OpenAI's text completion, whole or streamed."""

import codecs
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nestling.api.answers import Answer, Count
from nestling.api.inference.chat import model_names
from nestling.api.inference.replies import (
    CollectedChoice,
    Collector,
    FrameEncoder,
    Meta,
    ReplyId,
    ReplyIdentity,
    Usage,
)
from nestling.api.openapi.request_bodies import completion_schema
from nestling.api.requests.chat import InferenceBody
from nestling.api.requests.completions import read_completion_body
from nestling.chat.fields import Schema
from nestling.chat.request import (
    AlternativeToken,
    ChatDelta,
    ChatFinishReason,
    ChatModel,
    TokenLogprob,
)


class CompletionFormat:
    """Prompts in, `text_completion` out."""

    path = "/v1/completions"
    summary = "Continue a text"

    def __init__(self, chat: ChatModel) -> None:
        self.answer: type[Answer] = TextCompletion
        self._names = model_names(chat)
        self._num_text_tokens = chat.num_text_tokens
        self._max_model_len = chat.max_model_len

    def read(self, raw: Mapping[str, Any]) -> InferenceBody:
        """Validate a body; raises `InvalidRequestError`."""
        return read_completion_body(raw, self._names, self._max_model_len)

    def schema(self) -> Schema:
        """Return what `read` takes, as JSON Schema."""
        return completion_schema(self._names, self._num_text_tokens)

    def collector(
        self, identity: ReplyIdentity, body: InferenceBody, num_choices: int
    ) -> "TextCollector":
        """Return what builds the whole `text_completion`."""
        return TextCollector(identity, num_choices, logprobs=body.request.wants_logprobs)

    def encoder(self, identity: ReplyIdentity, body: InferenceBody) -> "TextEncoder":
        """Return what builds the frames."""
        return TextEncoder(identity, include_usage=body.include_usage)


class TextOffsets:
    """Tells where the tokens of one text begin in it, in characters, as they come."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_characters = 0

    def of(self, token: AlternativeToken) -> int:
        """Return the next token's; the tokens of one character have the same."""
        offset = self._num_characters
        self._num_characters += len(self._decoder.decode(token.token_bytes or b""))
        return offset


class TextLogprobs(Answer):
    """Log-probabilities in the older shape: one item of each list for a token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[Count]


class TextChoice(Answer):
    """One choice of a text completion."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: ChatFinishReason


class TextChunkChoice(Answer):
    """One choice's news in a frame."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: ChatFinishReason | None


class TextCompletion(Answer):
    """A whole continuation."""

    id: ReplyId
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    system_fingerprint: str
    meta: Meta


def text_logprobs(logprobs: Sequence[TokenLogprob], offsets: TextOffsets) -> TextLogprobs:
    """Return the `logprobs` object of a text choice, or of its next tokens."""
    return TextLogprobs(
        [item.chosen.token for item in logprobs],
        [max(item.chosen.logprob, -9999.0) for item in logprobs],
        [_by_text(item) for item in logprobs],
        [offsets.of(item.chosen) for item in logprobs],
    )


def _by_text(logprob: TokenLogprob) -> dict[str, float]:
    """Return the alternatives and the sampled token by their text; of equal texts the best."""
    found: dict[str, float] = {}
    for token in (*logprob.top, logprob.chosen):
        value = max(token.logprob, -9999.0)
        found[token.token] = max(value, found.get(token.token, value))
    return found


class TextCollector(Collector):
    """Makes a `text_completion`."""

    object_name = "text_completion"
    answer_type = TextCompletion

    def choice(self, index: int, choice: CollectedChoice, *, logprobs: bool) -> TextChoice:
        """Return the text and the logprobs."""
        assert choice.finish_reason is not None
        found = text_logprobs(choice.logprobs, TextOffsets()) if logprobs else None
        return TextChoice(index, choice.text, found, choice.finish_reason)


class TextEncoder(FrameEncoder):
    """Makes the frames of a streamed text; they are `text_completion` objects too."""

    object_name = "text_completion"

    def __init__(self, identity: ReplyIdentity, *, include_usage: bool) -> None:
        super().__init__(identity, include_usage=include_usage)
        self._offsets: defaultdict[int, TextOffsets] = defaultdict(TextOffsets)
        """By choice."""

    def opening(self, num_choices: int) -> bytes:  # noqa: ARG002 - chat needs it
        """Return nothing: a text has no role to announce."""
        return b""

    def delta(self, delta: ChatDelta) -> bytes:
        """Return the frame of a delta."""
        index, logprobs = delta.choice_index, self._logprobs(delta)
        return self.frame(TextChunkChoice(index, delta.text, logprobs, delta.finish_reason))

    def _logprobs(self, delta: ChatDelta) -> TextLogprobs | None:
        if not delta.logprobs:
            return None
        return text_logprobs(delta.logprobs, self._offsets[delta.choice_index])
