"""The wire format of POST /v1/chat/completions."""

from collections.abc import Mapping
from typing import Any

from nestling.api.answers import Answer
from nestling.api.inference.replies import (
    ChatCollector,
    ChatCompletion,
    ChunkEncoder,
    ReplyIdentity,
)
from nestling.api.openapi.request_bodies import chat_schema
from nestling.api.requests.chat import InferenceBody, read_chat_body
from nestling.chat.fields import Schema
from nestling.chat.messages import MessageLimits
from nestling.chat.request import ChatModel
from nestling.settings import Settings
from nestling.weights.catalog import DOCUMENTED_MODEL_ID


def model_names(chat: ChatModel) -> tuple[str, ...]:
    """Return the names a request may give in `model`, the documented one first."""
    return tuple(dict.fromkeys((DOCUMENTED_MODEL_ID, chat.model_id, *chat.aliases)))


class ChatFormat:
    """Messages in, `chat.completion` or its chunks out."""

    path = "/v1/chat/completions"
    summary = "Answer a conversation"
    answer: type[Answer] = ChatCompletion

    def __init__(self, chat: ChatModel, settings: Settings) -> None:
        self._names = model_names(chat)
        self._num_text_tokens = chat.num_text_tokens
        self._limits = MessageLimits(
            settings.max_file_bytes, settings.system_role, chat.max_model_len
        )

    def read(self, raw: Mapping[str, Any]) -> InferenceBody:
        """Validate a body; raises `InvalidRequestError`."""
        return read_chat_body(raw, self._names, self._limits)

    def schema(self) -> Schema:
        """Return what `read` takes, as JSON Schema."""
        role, num_ids = self._limits.system_role, self._num_text_tokens
        return chat_schema(self._names, role, self._limits.max_file_bytes, num_ids)

    def collector(
        self, identity: ReplyIdentity, body: InferenceBody, num_choices: int
    ) -> ChatCollector:
        """Return what builds the `chat.completion`."""
        return ChatCollector(identity, num_choices, logprobs=body.request.wants_logprobs)

    def encoder(self, identity: ReplyIdentity, body: InferenceBody) -> ChunkEncoder:
        """Return what builds the chunks."""
        return ChunkEncoder(identity, include_usage=body.include_usage)
