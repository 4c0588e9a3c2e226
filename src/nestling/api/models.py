"""GET /v1/models and /v1/models/{id}: OpenAI's shape and the hosted API's in one object."""

import time

import msgspec
from starlette.types import Receive, Scope, Send

from nestling.api.chat import model_names
from nestling.api.context import send_body
from nestling.api.fields import shown
from nestling.chat.request import ChatModel
from nestling.errors import ModelNotFoundError, NotFoundError


class ModelsEndpoint:
    """Lists every name that a request may give, with what really answers to it."""

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat
        self._created = int(time.time())

    async def list(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with all models."""
        data = [self._model(name) for name in model_names(self._chat)]
        await send_body(send, 200, msgspec.json.encode({"object": "list", "data": data}))

    async def one(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the model in the path; its id may contain slashes."""
        name = scope["path_params"]["model_id"]
        if name not in model_names(self._chat):
            message = f"The model '{shown(name)}' does not exist here."
            raise NotFoundError(message, param="model", code=ModelNotFoundError.code)
        await send_body(send, 200, msgspec.json.encode(self._model(name)))

    def _model(self, name: str) -> dict[str, object]:
        others = [other for other in model_names(self._chat) if other != name]
        length = self._chat.max_model_len
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "nestling",
            "served_by": self._chat.model_id,
            "type": "openai/chat-completions",
            "aliases": others,
            "info": {
                "name": name,
                "developer": "Google" if name.startswith("google/") else "Nestling",
                "description": f"Gemma 3n text completions, answered by {self._chat.model_id}",
                "contextLength": length,
                "outputMax": length,
            },
            "tags": ["chat"],
        }
