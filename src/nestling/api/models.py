"""The models: OpenAI's shape and the hosted API's in one object, by /v1/models and /model."""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling.api.answers import Amount, Answer
from nestling.api.auth import Access, Gate, route
from nestling.api.inference.chat import model_names
from nestling.api.operations import Endpoint, Operation, query
from nestling.api.requests.queries import Query
from nestling.chat.request import ChatModel
from nestling.errors import ModelNotFoundError, NotFoundError, shown
from nestling.server.answers import send_tagged
from nestling.settings import Settings
from nestling.weights.catalog import DOCUMENTED_MODEL_ID

CREATED = 1748476800
"""2025-05-29, when the documented model's API page begins; the same for every name and restart."""
MODEL_TYPE = "openai/chat-completions"
CAPABILITIES = ["file_input", "logprobs", "streaming"]


class Info(Answer):
    """Tells what the hosted API tells of a model."""

    name: str
    developer: str
    description: str
    contextLength: int  # noqa: N815 - the hosted API's spelling
    outputMax: int  # noqa: N815
    url: str
    docsUrl: str  # noqa: N815


class Modalities(Answer):
    """Tells what a model reads and writes."""

    input: list[str]
    output: list[str]


class PriceUnit(Answer):
    """The price of so many tokens of one kind."""

    name: str
    measure: str
    price: Amount
    per: int


class Pricing(Answer):
    """Tells what a model's replies are charged."""

    kind: Literal["fixed"]
    currency: Literal["USD"]
    units: list[PriceUnit]


class Model(Answer):
    """OpenAI's object and the hosted API's in one; the last three come if they are asked for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    served_by: str
    type: str
    aliases: list[str]
    info: Info
    tags: list[str]
    modalities: Modalities | UnsetType = UNSET
    capabilities: list[str] | UnsetType = UNSET
    pricing: Pricing | UnsetType = UNSET


class Models(Answer):
    """A list of models as OpenAI has it."""

    object: Literal["list"]
    data: list[Model]


class WrappedModel(Answer):
    """A model as the hosted API has it."""

    object: Literal["model"]
    data: Model


MODALITIES = Modalities(["text"], ["text"])
FILTERS: dict[str, Callable[[Model], Sequence[str]]] = {
    "id": lambda model: [model.id, *model.aliases],
    "type": lambda model: [model.type],
    "tags": lambda model: model.tags,
    "modalities": lambda _model: [*MODALITIES.input, *MODALITIES.output],
    "input_modalities": lambda _model: MODALITIES.input,
    "output_modalities": lambda _model: MODALITIES.output,
    "capabilities": lambda _model: CAPABILITIES,
}
"""What each filter compares with."""

_KEEP = "keep models with one of these: "
_DETAILS = (
    query("include", "pricing, modalities, capabilities or all; commas or repeated"),
    query("details", "true or 1: the same as include=all"),
)


class ModelsEndpoint:
    """Lists every name that a request may give, with what really answers to it."""

    def __init__(self, chat: ChatModel, settings: Settings) -> None:
        self._chat = chat
        units = [
            PriceUnit("token", "input", settings.usd_per_million_prompt_tokens, 1_000_000),
            PriceUnit("token", "output", settings.usd_per_million_completion_tokens, 1_000_000),
        ]
        self._pricing = Pricing("fixed", "USD", units)

    def routes(self, gate: Gate) -> Sequence[Route]:
        """Return the routes of the models, under both base URLs and as the hosted API has them."""
        many = Endpoint(
            self.list,
            Operation(
                "List models",
                Models,
                parameters=lambda: (*_DETAILS, *(query(n, _KEEP + n) for n in FILTERS)),
                is_tagged=True,
            ),
        )
        one = Endpoint(self.one, _one("Show a model", Model))
        wrapped = Endpoint(self.wrapped, _one("Show a model as the hosted API does", WrappedModel))
        return [
            *(
                route(f"{base}{path}", {"GET": endpoint}, Access.PUBLIC, gate)
                for path, endpoint in (("/models", many), ("/models/{model_id:path}", one))
                for base in ("/v1", "")
            ),
            route("/api/v1/models", {"GET": many}, Access.PUBLIC, gate),
            route("/model/{model_id:path}", {"GET": wrapped}, Access.PUBLIC, gate),
        ]

    async def list(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with all models that pass the filters."""
        query = Query(scope)
        models = [self._model(name, query) for name in model_names(self._chat)]
        data = [model for model in models if _passes(model, query)]
        await _send(scope, send, Models("list", data))

    async def one(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer as OpenAI does; the id in the path may contain slashes."""
        await _send(scope, send, self._find(scope, model_names(self._chat)))

    async def wrapped(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer as the hosted API does; upper and lower case are one."""
        lowered = scope["path_params"]["model_id"].lower()
        names = [name for name in model_names(self._chat) if name.lower() == lowered]
        await _send(scope, send, WrappedModel("model", self._find(scope, names)))

    def _find(self, scope: Scope, names: Sequence[str]) -> Model:
        name = scope["path_params"]["model_id"]
        found = name if name in names else next(iter(names), None)
        if found is None or found.lower() != name.lower():
            message = f"The model '{shown(name)}' does not exist here."
            raise NotFoundError(message, param="model", code=ModelNotFoundError.code)
        return self._model(found, Query(scope))

    def _model(self, name: str, query: Query) -> Model:
        wanted = query.listed("include")
        details = query.one("details") in ("true", "1") or "all" in wanted
        length = self._chat.max_model_len
        return Model(
            id=name,
            object="model",
            created=CREATED,
            owned_by="nestling",
            served_by=self._chat.model_id,
            type=MODEL_TYPE,
            aliases=[other for other in model_names(self._chat) if other != name],
            info=Info(
                name=name.rpartition("/")[2],
                developer="Google" if name == DOCUMENTED_MODEL_ID else "Nestling",
                description=f"Gemma 3n text completions, answered by {self._chat.model_id}",
                contextLength=length,
                outputMax=length,
                url="",
                docsUrl="",
            ),
            tags=["playground:chat"],
            modalities=MODALITIES if details or "modalities" in wanted else UNSET,
            capabilities=CAPABILITIES if details or "capabilities" in wanted else UNSET,
            pricing=self._pricing if details or "pricing" in wanted else UNSET,
        )


def _one(summary: str, answer: type[Answer]) -> Operation:
    return Operation(summary, answer, errors=(404,), parameters=lambda: _DETAILS, is_tagged=True)


def _passes(model: Model, query: Query) -> bool:
    """Tell whether a model passes every filter: one of its values is one of those asked for."""
    for name, values_of in FILTERS.items():
        wanted = query.listed(name)
        if wanted and not {value.lower() for value in values_of(model)} & set(wanted):
            return False
    return True


async def _send(scope: Scope, send: Send, body: Answer) -> None:
    await send_tagged(scope, send, msgspec.json.encode(body))
