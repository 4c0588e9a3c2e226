"""GET /openapi.json: what this server accepts and answers, made from the operations of its routes.

Schemas of answers come from their structs (`api/answers.py`), those of requests from what stands
beside the readers.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling import __version__
from nestling.api.auth import Access, Gate, GuardedEndpoint, route
from nestling.api.errors import Error
from nestling.api.operations import Endpoint, Operation
from nestling.chat.fields import Schema
from nestling.server.answers import send_tagged
from nestling.server.origins import is_loopback
from nestling.settings import Settings

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
_STREAM: Schema = {"description": "Events of one JSON chunk each, then [DONE]"}
"""Readers disagree whether a schema here is of the whole stream or of an event: none is given."""
_ALWAYS = (400, 405, 408, 414, 421, 431, 500, 503)
"""Statuses that every route can answer with."""
Refs = Mapping[Any, Schema]
"""Schemas of answers by their type: references to components, or the schema itself."""


class OpenApiEndpoint:
    """Serves the document; made before the routes are, which it asks for when it is first read."""

    def __init__(self, settings: Settings, routes: Callable[[], Sequence[Route]]) -> None:
        self._settings = settings
        self._routes = routes

    def route(self, gate: Gate) -> Route:
        """Return the route that shows the document."""
        operation = Operation("This document", dict[str, Any], is_tagged=True)
        endpoint = Endpoint(self.endpoint, operation)
        return route("/openapi.json", {"GET": endpoint}, Access.OPERATOR, gate)

    async def endpoint(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the document."""
        await send_tagged(scope, send, self._document)

    @cached_property
    def _document(self) -> bytes:
        return msgspec.json.encode(document(self._settings, self._routes()))


def document(settings: Settings, routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of these routes."""
    guards = [r.endpoint for r in routes if isinstance(r.endpoint, GuardedEndpoint)]
    answers = {o.answer for guard in guards for o in guard.operations.values()}
    types = [Error, *sorted(answers, key=str)]
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    refs = dict(zip(types, schemas, strict=True))
    is_local = is_loopback(settings.host)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nestling",
            "version": __version__,
            "description": "Gemma 3n behind the API that its users already call.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {_path(guard): _described_all(guard, refs, is_local) for guard in guards},
        "components": {
            "schemas": components,
            "securitySchemes": {"access-token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _path(guard: GuardedEndpoint) -> str:
    return guard.path.replace(":path}", "}")


def _described_all(guard: GuardedEndpoint, refs: Refs, is_local: bool) -> dict[str, Any]:
    is_open = guard.access is Access.PUBLIC or (guard.access is Access.OPERATOR and is_local)
    return {
        method.lower(): _described(operation, _path(guard), refs, needs_key=not is_open)
        for method, operation in guard.operations.items()
    }


def _described(operation: Operation, path: str, refs: Refs, *, needs_key: bool) -> dict[str, Any]:
    responses = {str(operation.status): _success(operation, refs)}
    if operation.is_tagged:
        responses["304"] = {"description": "If-None-Match has it already"}
    keyed = (401, 403) if needs_key else ()
    for status in sorted({*_ALWAYS, *operation.errors, *keyed}):
        error = {"application/json": {"schema": refs[Error]}}
        responses[str(status)] = {"description": _ERRORS[status], "content": error}
    described: dict[str, Any] = {"summary": operation.summary, "responses": responses}
    parameters = [*_path_parameters(path), *operation.parameters()]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        content = {"application/json": {"schema": operation.body()}}
        described["requestBody"] = {"required": operation.needs_body, "content": content}
    if needs_key:
        described["security"] = [{"access-token": []}]
    return described


def _success(operation: Operation, refs: Refs) -> dict[str, Any]:
    schema = refs[operation.answer]
    response: dict[str, Any] = {
        "description": "Done",
        "content": {
            name: {"schema": _STREAM if name == "text/event-stream" else schema}
            for name in operation.answer_types
        },
    }
    if operation.headers:
        response["headers"] = {
            name: {"description": text, "schema": {"type": "string"}}
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
