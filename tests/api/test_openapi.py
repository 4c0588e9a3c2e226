"""The OpenAPI document: every route is in it, and its schemas say what the readers do."""

import json
from typing import Any

import httpx
import jsonschema
import pytest
from starlette.applications import Starlette

from nestling.api.message_fields import MessageLimits
from nestling.api.openapi import operations
from nestling.api.schemas import FIELDS, KNOWN_FIELDS, SHAPED_FIELDS, read_chat_body
from nestling.errors import InvalidRequestError

from .conftest import chat_body

LIMITS = MessageLimits(max_file_bytes=2**20, system_role="fold")


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/openapi.json")
    assert response.status_code == 200
    return response.json()


async def test_every_route_and_no_other(app: Starlette, document: dict[str, Any]) -> None:
    routes = {
        (method.lower(), route.path.replace(":path}", "}"))
        for route in app.routes
        for method in route.endpoint.handlers
    }
    described = {(method, path) for path, item in document["paths"].items() for method in item}
    assert described == routes
    for method, path in operations(app.state.services):
        assert (method.lower(), path) in routes


async def test_schemas_are_json_schemas(document: dict[str, Any]) -> None:
    for item in document["paths"].values():
        for operation in item.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                jsonschema.Draft202012Validator.check_schema(content["schema"])
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


async def test_keyed_routes_say_so(app: Starlette, document: dict[str, Any]) -> None:
    for route in app.routes:
        path = route.path.replace(":path}", "}")
        is_open = route.endpoint.access.value in ("public", "operator")
        for operation in document["paths"][path].values():
            assert ("security" in operation) is not is_open


def values_around(schema: dict[str, Any]) -> list[Any]:
    """Values at, just inside and just outside the bounds, and of every other type."""
    values: list[Any] = [None, True, False, "", "x", "1", [], ["x"], {}, {"x": 1}, 0, 1, -1, 0.5]
    for name in ("minimum", "maximum", "exclusiveMinimum"):
        if name in schema:
            bound = schema[name]
            values += [bound, bound + 1, bound - 1, bound + 0.001, bound - 0.001, float(bound)]
    values += ["x" * n for n in (schema.get("maxLength", 0), schema.get("maxLength", 0) + 1)]
    return values


@pytest.mark.parametrize("name", sorted(KNOWN_FIELDS - {"model", "messages"}))
async def test_schema_and_reader_agree(document: dict[str, Any], name: str) -> None:
    post = document["paths"]["/v1/chat/completions"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator(schema)
    names = tuple(schema["properties"]["model"]["enum"])
    reader = FIELDS.get(name) or SHAPED_FIELDS.get(name)
    for value in values_around({} if reader is None else reader.schema()):
        body = chat_body(**{name: value})
        try:
            read_chat_body(json.loads(json.dumps(body)), names, LIMITS)
            is_read = True
        except InvalidRequestError:
            is_read = False
        assert validator.is_valid(body) == is_read, value


async def test_document_has_a_tag(client: httpx.AsyncClient) -> None:
    first = await client.get("/openapi.json")
    second = await client.get("/openapi.json")
    assert first.headers["etag"] == second.headers["etag"]
