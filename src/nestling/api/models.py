"""The models: OpenAI's shape and the hosted API's in one object, by /v1/models and /model."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from nestling.api.inference.chat import model_names
from nestling.api.requests.queries import Query
from nestling.chat.request import ChatModel
from nestling.errors import ModelNotFoundError, NotFoundError, shown
from nestling.server.answers import send_tagged
from nestling.settings import Settings
from nestling.weights.catalog import DOCUMENTED_MODEL_ID

CREATED = 1748476800
"""2025-05-29, when the documented model's API page begins; the same for every name and restart."""
MODEL_TYPE = "openai/chat-completions"
MODALITIES = {"input": ["text"], "output": ["text"]}
CAPABILITIES = ["file_input", "logprobs", "streaming"]
SECTIONS = ("pricing", "modalities", "capabilities")
FILTERS: dict[str, Callable[[dict[str, Any]], Sequence[str]]] = {
    "id": lambda model: [model["id"], *model["aliases"]],
    "type": lambda model: [model["type"]],
    "tags": lambda model: model["tags"],
    "modalities": lambda _model: [*MODALITIES["input"], *MODALITIES["output"]],
    "input_modalities": lambda _model: MODALITIES["input"],
    "output_modalities": lambda _model: MODALITIES["output"],
    "capabilities": lambda _model: CAPABILITIES,
}
"""What each filter compares with."""


class ModelsEndpoint:
    """Lists every name that a request may give, with what really answers to it."""

    def __init__(self, chat: ChatModel, settings: Settings) -> None:
        self._chat = chat
        self._pricing = {
            "kind": "fixed",
            "currency": "USD",
            "units": [
                _unit("input", settings.usd_per_million_prompt_tokens),
                _unit("output", settings.usd_per_million_completion_tokens),
            ],
        }

    async def list(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with all models that pass the filters."""
        query = Query(scope)
        models = [self._model(name, query) for name in model_names(self._chat)]
        data = [model for model in models if _passes(model, query)]
        await _send(scope, send, {"object": "list", "data": data})

    async def one(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer as OpenAI does; the id in the path may contain slashes."""
        await _send(scope, send, self._find(scope, model_names(self._chat)))

    async def wrapped(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer as the hosted API does; upper and lower case are one."""
        lowered = scope["path_params"]["model_id"].lower()
        names = [name for name in model_names(self._chat) if name.lower() == lowered]
        await _send(scope, send, {"object": "model", "data": self._find(scope, names)})

    def _find(self, scope: Scope, names: Sequence[str]) -> dict[str, Any]:
        name = scope["path_params"]["model_id"]
        found = name if name in names else next(iter(names), None)
        if found is None or found.lower() != name.lower():
            message = f"The model '{shown(name)}' does not exist here."
            raise NotFoundError(message, param="model", code=ModelNotFoundError.code)
        return self._model(found, Query(scope))

    def _model(self, name: str, query: Query) -> dict[str, Any]:
        others = [other for other in model_names(self._chat) if other != name]
        length = self._chat.max_model_len
        model: dict[str, Any] = {
            "id": name,
            "object": "model",
            "created": CREATED,
            "owned_by": "nestling",
            "served_by": self._chat.model_id,
            "type": MODEL_TYPE,
            "aliases": others,
            "info": {
                "name": name.rpartition("/")[2],
                "developer": "Google" if name == DOCUMENTED_MODEL_ID else "Nestling",
                "description": f"Gemma 3n text completions, answered by {self._chat.model_id}",
                "contextLength": length,
                "outputMax": length,
                "url": "",
                "docsUrl": "",
            },
            "tags": ["playground:chat"],
        }
        wanted = query.listed("include")
        details = query.one("details") in ("true", "1") or "all" in wanted
        sections = {
            "modalities": MODALITIES,
            "capabilities": CAPABILITIES,
            "pricing": self._pricing,
        }
        return model | {n: value for n, value in sections.items() if details or n in wanted}


def _unit(measure: str, usd_per_million: float) -> dict[str, Any]:
    return {"name": "token", "measure": measure, "price": usd_per_million, "per": 1_000_000}


def _passes(model: dict[str, Any], query: Query) -> bool:
    """Tell whether a model passes every filter: one of its values is one of those asked for."""
    for name, values_of in FILTERS.items():
        wanted = query.listed(name)
        if wanted and not {value.lower() for value in values_of(model)} & set(wanted):
            return False
    return True


async def _send(scope: Scope, send: Send, body: dict[str, Any]) -> None:
    await send_tagged(scope, send, msgspec.json.encode(body))
