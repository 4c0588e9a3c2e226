"""GET /openapi.json: what this server accepts and answers, made from the routes and their tables.

A test fails for a route that is missing here, and one for a route that is only here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling import __version__
from nestling.accounts.api_keys import MAX_NAME_LENGTH, NAME_PATTERN
from nestling.accounts.key_records import SCOPES
from nestling.api.account.billing import DIRECTIONS, TYPES
from nestling.api.account.usage import GROUPINGS, MAX_MODELS, PERIOD_PATTERN, STATUSES, time_zones
from nestling.api.auth import Access, GuardedEndpoint
from nestling.api.inference.chat import model_names
from nestling.api.inference.services import Services
from nestling.api.openapi import answers
from nestling.api.openapi.request_bodies import chat_schema, completion_schema, nullable
from nestling.api.requests.keys import MAX_LIMIT_USD, MIN_LIMIT_USD, RETENTIONS
from nestling.chat.fields import Schema
from nestling.server.answers import send_tagged
from nestling.server.origins import is_loopback

_ERRORS = {
    400: "A field, a parameter or the request itself is wrong",
    401: "No good key",
    403: "The key may not do this",
    404: "There is no such thing",
    405: "Not with this method",
    408: "Came too slowly",
    413: "Too large",
    414: "The address is too long",
    415: "Of another type than JSON",
    421: "The Host names another server",
    429: "Too many requests or tokens a minute",
    431: "The head is too large",
    500: "Internal error",
    503: "Overloaded, shutting down, or a part is not available",
}
_SCHEMAS: Mapping[str, Schema] = {
    "text/plain": answers.STRING,
    # Readers disagree whether a schema here is of the whole stream or of an event: none is given.
    "text/event-stream": {"description": "Events of one JSON chunk each, then [DONE]"},
}
"""Of answers that are no JSON."""
_ALWAYS = (400, 405, 408, 414, 421, 431, 500, 503)
"""Statuses that every route can answer with."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route."""

    summary: str
    answer: Schema
    status: int = 200
    body: Schema | None = None
    needs_body: bool = True
    parameters: Sequence[Schema] = ()
    errors: Sequence[int] = ()
    answer_types: Sequence[str] = ("application/json",)
    headers: Mapping[str, str] = field(default_factory=dict)
    is_tagged: bool = False
    """Its answer has an ETag, which If-None-Match is compared with."""
    makes: Sequence[str] = ()
    """Methods of `/v1/keys/{prefix}` that take the key which this one makes."""


def _query(name: str, description: str, *, many: bool = False, **schema: Any) -> Schema:
    one: Schema = {"type": "string", **schema}
    value = {"type": "array", "items": one} if many else one
    return {"name": name, "in": "query", "description": description, "schema": value}


_INCLUDE = _query("include", "pricing, modalities, capabilities or all; commas or repeated")
_DETAILS = _query("details", "true or 1: the same as include=all")
_FILTERS = [
    _query(name, f"keep models with one of these: {name}")
    for name in (
        *("id", "type", "tags", "modalities", "input_modalities", "output_modalities"),
        "capabilities",
    )
]
_WINDOW = [
    _query("period", "hours or days back, instead of start and end", pattern=PERIOD_PATTERN),
    _query("start", "ISO 8601", format="date-time"),
    _query("end", "ISO 8601", format="date-time"),
    _query("key_prefix", "whose use; the caller's own without it"),
]
_LIMIT = _query("limit", "rows of a page", type="integer", minimum=1, maximum=100)
_KEY_FIELDS: dict[str, Schema] = {
    "name": {
        "type": ["string", "null"],
        "minLength": 1,
        "maxLength": MAX_NAME_LENGTH,
        "pattern": NAME_PATTERN,
    },
    "limit": nullable(
        answers.record(
            retention={"type": "string", "enum": list(RETENTIONS)},
            threshold={
                "type": "number",
                "maximum": MAX_LIMIT_USD,
                "anyOf": [{"const": 0}, {"minimum": MIN_LIMIT_USD}],
            },
        )
    ),
    "scopes": {
        "type": ["array", "null"],
        "items": {"type": "string", "enum": list(SCOPES)},
        "maxItems": len(SCOPES),
    },
}


_EXPIRY: Schema = {
    "type": ["string", "null"],
    "format": "date-time",
    "description": "A time to come. Not in the hosted API.",
}


def _key_body(**more: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {**_KEY_FIELDS, **more},
        "additionalProperties": False,
    }


def operations(services: Services) -> dict[tuple[str, str], Operation]:
    """Return every operation by method and path, without the variants of its path."""
    settings, names = services.settings, model_names(services.chat)
    num_ids = services.chat.num_text_tokens
    reply: dict[str, Any] = {
        "status": settings.success_status,
        "errors": (401, 403, 413, 415, 429),
        "answer_types": ("application/json", "text/event-stream"),
        "headers": {
            "x-request-id": "This request",
            "x-inference-id": "The reply's id",
            "x-ratelimit-remaining-requests": "What is left of the key's minute",
            "x-ratelimit-remaining-tokens": "What is left of the key's minute",
        },
    }
    chat = chat_schema(names, settings.system_role, settings.max_file_bytes, num_ids)
    change = _key_body(disabled={"type": ["boolean", "null"]})
    by_prefix = (401, 403, 404)
    written = (401, 403, 404, 413, 415)
    return {
        ("POST", "/v1/chat/completions"): Operation(
            "Answer a conversation", answers.ref("ChatCompletion"), body=chat, **reply
        ),
        ("POST", "/v1/completions"): Operation(
            "Continue a text",
            answers.ref("TextCompletion"),
            body=completion_schema(names, num_ids),
            **reply,
        ),
        ("GET", "/v1/models"): Operation(
            "List models",
            answers.listed(answers.ref("Model")),
            parameters=(_INCLUDE, _DETAILS, *_FILTERS),
            is_tagged=True,
        ),
        ("GET", "/v1/models/{model_id}"): Operation(
            "Show a model",
            answers.ref("Model"),
            errors=(404,),
            parameters=(_INCLUDE, _DETAILS),
            is_tagged=True,
        ),
        ("GET", "/model/{model_id}"): Operation(
            "Show a model as the hosted API does",
            answers.record(object={"const": "model"}, data=answers.ref("Model")),
            errors=(404,),
            parameters=(_INCLUDE, _DETAILS),
            is_tagged=True,
        ),
        ("GET", "/models/metrics"): Operation(
            "Percentiles of the last minutes",
            answers.ref("ModelMetrics"),
            parameters=(_query("aliases", "only these models", many=True),),
        ),
        ("GET", "/v1/key"): Operation(
            "Show the key that asks", answers.data(answers.ref("Key")), errors=(401,)
        ),
        ("GET", "/v1/keys"): Operation(
            "List keys", answers.data(answers.array(answers.ref("Key"))), errors=(401, 403)
        ),
        ("POST", "/v1/keys"): Operation(
            "Make a key",
            answers.data(answers.ref("NewKey")),
            body=_key_body(expires_at=_EXPIRY),
            needs_body=False,
            errors=written,
            makes=("GET", "PATCH", "PUT", "DELETE"),
        ),
        ("GET", "/v1/keys/{prefix}"): Operation(
            "Show a key", answers.data(answers.ref("Key")), errors=by_prefix
        ),
        ("PATCH", "/v1/keys/{prefix}"): Operation(
            "Change a key", answers.data(answers.ref("Key")), body=change, errors=written
        ),
        ("PUT", "/v1/keys/{prefix}"): Operation(
            "Change a key", answers.data(answers.ref("Key")), body=change, errors=written
        ),
        ("DELETE", "/v1/keys/{prefix}"): Operation(
            "Delete a key",
            answers.data(answers.record(prefix=answers.STRING, deleted={"const": True})),
            errors=by_prefix,
        ),
        ("GET", "/v2/usage"): Operation(
            "What a key spent", answers.ref("UsageTotals"), parameters=_WINDOW, errors=by_prefix
        ),
        ("GET", "/v2/usage/detail"): Operation(
            "What a key spent, by model and day",
            answers.ref("UsageDetail"),
            parameters=(
                *_WINDOW,
                _query("group_by", "add groups", enum=list(GROUPINGS)),
                _query("tz", "whose days", enum=sorted(time_zones())),
            ),
            errors=by_prefix,
        ),
        ("GET", "/v2/logs"): Operation(
            "A key's requests",
            answers.ref("Logs"),
            parameters=(
                *_WINDOW,
                _query("model", f"only these, at most {MAX_MODELS}", many=True),
                _query("status", "only these", many=True, enum=list(STATUSES)),
                _LIMIT,
                _query("offset", "rows to skip", type="integer", minimum=0, maximum=10**9),
            ),
            errors=(*by_prefix, 429),
        ),
        ("GET", "/v1/billing/balance"): Operation(
            "Credits that a key may still spend", answers.ref("Balance"), errors=(401,)
        ),
        ("GET", "/v2/billing"): Operation(
            "USD that a key may still spend", answers.BILLING, errors=(401,)
        ),
        ("GET", "/v2/billing/detail"): Operation(
            "The same with settings", answers.BILLING_DETAIL, errors=(401,)
        ),
        ("GET", "/v2/billing/transactions"): Operation(
            "What a key was charged",
            answers.ref("Transactions"),
            parameters=(
                _query("from", "ISO 8601 with offset", format="date-time"),
                _query("to", "ISO 8601 with offset", format="date-time"),
                _query("direction", "only these", enum=list(DIRECTIONS)),
                _query("type", "only these", enum=list(TYPES)),
                _LIMIT,
                _query("cursor", "next_cursor of the page before"),
            ),
            errors=(401, 403),
        ),
        ("GET", "/metrics"): Operation(
            "Figures for Prometheus", answers.STRING, answer_types=("text/plain",)
        ),
        ("GET", "/openapi.json"): Operation("This document", {"type": "object"}, is_tagged=True),
        ("GET", "/livez"): Operation("Whether the server runs", answers.STATUS),
        ("GET", "/readyz"): Operation("Whether the engine is well", answers.STATUS),
    }


class OpenApiEndpoint:
    """Serves the document; made before the routes are, which it asks for when it is first read."""

    def __init__(self, services: Services, routes: Callable[[], Sequence[Route]]) -> None:
        self._services = services
        self._routes = routes

    async def endpoint(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the document."""
        await send_tagged(scope, send, self._document)

    @cached_property
    def _document(self) -> bytes:
        return msgspec.json.encode(document(self._services, self._routes()))


def document(services: Services, routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of these routes."""
    known = operations(services)
    is_local = is_loopback(services.settings.host)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        assert isinstance(route.endpoint, GuardedEndpoint)
        path = route.path.replace(":path}", "}")
        for method in route.endpoint.handlers:
            operation = _operation(known, method, path)
            paths.setdefault(path, {})[method.lower()] = _described(
                operation, path, needs_key=_needs_key(route.endpoint.access, is_local=is_local)
            )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nestling",
            "version": __version__,
            "description": "Gemma 3n behind the API that its users already call.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": answers.SCHEMAS,
            "securitySchemes": {"access-token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(known: Mapping[tuple[str, str], Operation], method: str, path: str) -> Operation:
    """Return the operation of a path or of the path that it is a variant of."""
    for name in (path, f"/v1{path}", path.removeprefix("/api")):
        if (method, name) in known:
            return known[method, name]
    raise AssertionError(f"{method} {path} has no description")


def _needs_key(access: Access, *, is_local: bool) -> bool:
    return access is not Access.PUBLIC and not (access is Access.OPERATOR and is_local)


def _described(operation: Operation, path: str, *, needs_key: bool) -> dict[str, Any]:
    responses = {str(operation.status): _success(operation)}
    if operation.is_tagged:
        responses["304"] = {"description": "If-None-Match has it already"}
    keyed = (401, 403) if needs_key else ()
    for status in sorted({*_ALWAYS, *operation.errors, *keyed}):
        error = {"application/json": {"schema": answers.ref("Error")}}
        responses[str(status)] = {"description": _ERRORS[status], "content": error}
    described: dict[str, Any] = {"summary": operation.summary, "responses": responses}
    parameters = [*_path_parameters(path), *operation.parameters]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        content = {"application/json": {"schema": operation.body}}
        described["requestBody"] = {"required": operation.needs_body, "content": content}
    if needs_key:
        described["security"] = [{"access-token": []}]
    return described


def _success(operation: Operation) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": "Done",
        "content": {
            name: {"schema": _SCHEMAS.get(name, operation.answer)}
            for name in operation.answer_types
        },
    }
    if operation.headers:
        response["headers"] = {
            name: {"description": text, "schema": answers.STRING}
            for name, text in operation.headers.items()
        }
    if operation.makes:
        response["links"] = {method.lower(): _link_to_key(method) for method in operation.makes}
    return response


def _link_to_key(method: str) -> dict[str, Any]:
    return {
        "operationRef": f"#/paths/~1v1~1keys~1{{prefix}}/{method.lower()}",
        "parameters": {"prefix": "$response.body#/data/prefix"},
    }


def _path_parameters(path: str) -> list[Schema]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
