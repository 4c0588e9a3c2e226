"""The OpenAPI document: every route is in it, and its schemas say what the readers do."""

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import jsonschema
import pytest

from nestling.accounts.accounts import Accounts
from nestling.api.app import create_app
from nestling.api.openapi.document import document as document_of
from nestling.api.openapi.request_bodies import chat_schema
from nestling.api.requests.chat import FIELDS, KNOWN_FIELDS, SHAPED_FIELDS, read_chat_body
from nestling.api.requests.completions import read_completion_body
from nestling.api.requests.keys import read_new_key
from nestling.chat.messages import MessageLimits
from nestling.errors import InvalidRequestError
from nestling.server.application import Application
from nestling.settings import Settings
from tests.api.conftest import AUTH, FakeChat, chat_body, healthy
from tests.api.helpers import guard_of, routes_of

LIMITS = MessageLimits(max_file_bytes=2**20, system_role="fold")


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/openapi.json")
    assert response.status_code == 200
    document: dict[str, Any] = response.json()
    return document


async def test_every_route_and_no_other(app: Application, document: dict[str, Any]) -> None:
    routes = {
        (method.lower(), route.path.replace(":path}", "}"))
        for route in routes_of(app)
        for method in guard_of(route).handlers
    }
    described = {(method, path) for path, item in document["paths"].items() for method in item}
    assert described == routes


async def test_schemas_are_json_schemas(document: dict[str, Any]) -> None:
    for item in document["paths"].values():
        for operation in item.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                jsonschema.Draft202012Validator.check_schema(content["schema"])
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


async def test_keyed_routes_say_so(app: Application, document: dict[str, Any]) -> None:
    for route in routes_of(app):
        path = route.path.replace(":path}", "}")
        is_open = guard_of(route).access.value in ("public", "operator")
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


def schema_of(document: dict[str, Any], path: str) -> dict[str, Any]:
    body = document["paths"][path]["post"]["requestBody"]
    schema: dict[str, Any] = body["content"]["application/json"]["schema"]
    return schema


def is_read_by(reader: Callable[[dict[str, Any]], Any], body: dict[str, Any]) -> bool:
    try:
        reader(json.loads(json.dumps(body)))
    except InvalidRequestError:
        return False
    return True


PROMPTS: list[Any] = [
    "",
    "x",
    [],
    [1, 2],
    [0] * 40,
    ["x"] * 4,
    ["x"] * 33,
    ["x", [1]],
    [[]],
    [[1], [2.0]],
]
PROMPTS += [["x"] * (32 // n) for n in range(1, 9)] + [["x"] * (32 // n + 1) for n in range(1, 9)]
PROMPTS += [None, 5, {}, [None], [1, "x"], ["x", 1], [[1.5]], [True], [[[1]]]]


async def test_prompts_and_choices_are_told_as_they_are(document: dict[str, Any]) -> None:
    schema = schema_of(document, "/v1/completions")
    validator = jsonschema.Draft202012Validator(schema)
    names = tuple(schema["properties"]["model"]["enum"])
    absent = object()
    values = (absent, None, 0, 1, 1.0, 2, 3, 5, 8, 9, 2.5, True, "2")
    for n in values:
        for best_of in values:
            for prompt in PROMPTS if best_of in (absent, n) else PROMPTS[:2]:
                given = {"n": n, "best_of": best_of}
                body = {"model": names[0], "prompt": prompt}
                body |= {name: value for name, value in given.items() if value is not absent}
                is_read = is_read_by(lambda body: read_completion_body(body, names), body)
                assert validator.is_valid(body) == is_read, body


NAMES: list[Any] = [
    "",
    "x",
    "x" * 100,
    "x" * 101,
    "Jürgen",
    "鍵 一",
    "鍵\u3000一",
    "🔑",
    "می\u200cخواهم",
    "a\u0301",
]
NAMES += ["a\nb", "a\x00", "\x1b[31m", "a\x7f", "\x85", "a\u2028b", "\u202e", "\u200f", "\ufeff", 5]
THRESHOLDS = [0, 0.0, -1, 1e-10, 9.99e-10, 1e-9, 0.5, 10**9, 10**9 + 1, True, "1", None]


async def test_names_and_limits_are_told_as_they_are(document: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(schema_of(document, "/v1/keys"))
    bodies: list[dict[str, Any]] = [{"name": name} for name in NAMES]
    bodies += [{"limit": {"retention": "day", "threshold": value}} for value in THRESHOLDS]
    for body in bodies:
        assert validator.is_valid(body) == is_read_by(read_new_key, body), body


def pdf_in_base64(data: bytes) -> list[str]:
    plain = base64.b64encode(data).decode()
    lines = [base64.encodebytes(data).decode(), plain[:5] + " \t\r\n" + plain[5:] + "\n"]
    heads = ["data:application/pdf;base64,", "DATA:Application/PDF;BASE64,\n"]
    return [plain, *lines, *(head + plain for head in heads)]


FILES = [text for n in range(5) for text in pdf_in_base64(b"%PDF-1.7" + b"\xff" * (60 + n))]
FILES += pdf_in_base64(b"%PDF-") + pdf_in_base64(b"%PDF-\xff")
NO_FILES = [
    "",
    "JVBERi0",
    "JVBERi0xx",
    "JVBERi0-",
    "JVBERi0x\x0b",
    "JVBERi0xé",
    "=JVBERi0",
    "JVBERi0====",
]
NO_FILES += [
    "data:text/plain;base64,JVBERi0x",
    "data:application/pdf,JVBERi0x",
    "QUJD",
    "JVBERi0=JVBERi0=",
]


async def test_files_are_told_as_they_are(document: dict[str, Any]) -> None:
    schema = schema_of(document, "/v1/chat/completions")
    validator = jsonschema.Draft202012Validator(schema)
    names = tuple(schema["properties"]["model"]["enum"])
    for text in FILES + NO_FILES:
        part = {"type": "file", "file": {"file_data": text}}
        body = chat_body(messages=[{"role": "user", "content": [part]}])
        is_read = is_read_by(lambda body: read_chat_body(body, names, LIMITS), body)
        assert is_read is (text in FILES), text
        assert validator.is_valid(body) == is_read, text


async def test_document_has_a_tag(client: httpx.AsyncClient) -> None:
    first = await client.get("/openapi.json")
    second = await client.get("/openapi.json")
    assert first.headers["etag"] == second.headers["etag"]
    told = await client.get("/openapi.json", headers={"if-none-match": first.headers["etag"]})
    assert (told.status_code, told.content) == (304, b"")
    for path, item in first.json()["paths"].items():
        is_tagged = path == "/openapi.json" or ("model" in path and path != "/models/metrics")
        assert ("304" in item.get("get", {}).get("responses", {})) is is_tagged


async def test_operators_routes_need_a_key_beyond_loopback(
    chat: FakeChat, accounts: Accounts, settings: Settings
) -> None:
    public = settings.model_copy(update={"host": "0.0.0.0"})  # noqa: S104 - nothing listens
    app = create_app(chat, accounts, public, healthy)
    described = document_of(app.settings, routes_of(app))["paths"]["/metrics"]["get"]
    assert described["security"] == [{"access-token": []}]
    assert {"401", "403"} <= set(described["responses"])


PERIODS = ["1h", "99h", "100h", "1999h", "2199h", "2208h", "1d", "9d", "89d", "90d", "92d"]
NO_PERIODS = ["0h", "01h", "2209h", "2210h", "2300h", "3000h", "10000h", "0d", "93d", "99d", "1w"]


async def test_periods_zones_and_expiry_are_told_as_they_are(
    document: dict[str, Any], client: httpx.AsyncClient
) -> None:
    usage = document["paths"]["/v2/usage/detail"]["get"]["parameters"]
    told = {parameter["name"]: parameter["schema"] for parameter in usage}
    assert {"UTC", "America/New_York", "Asia/Tokyo"} <= set(told["tz"]["enum"])
    for period in PERIODS + NO_PERIODS:
        response = await client.get(f"/v2/usage?period={period}", headers=AUTH)
        assert response.status_code == (200 if period in PERIODS else 400), period
        assert bool(re.search(told["period"]["pattern"], period)) is (period in PERIODS), period
    post = document["paths"]["/v1/keys"]["post"]["requestBody"]["content"]["application/json"]
    assert post["schema"]["properties"]["expires_at"]["format"] == "date-time"


@pytest.mark.parametrize("limit", [7, 10, 1000, 2048, 262_144])
def test_ids_below_the_vocabulary(limit: int) -> None:
    """The pattern of ids allows what `logit_bias` takes, to the last one."""
    schema = chat_schema(("m",), "fold", 1, limit)["properties"]["logit_bias"]["propertyNames"]
    validator = jsonschema.Draft202012Validator(schema)
    length = len(str(limit))
    for number in {0, 1, 9, limit // 2, limit - 1, limit, limit + 1, 10**length - 1, 10**length}:
        assert validator.is_valid(str(number)) is (number < limit), number
        if length > 1:
            assert validator.is_valid(f"{number:0{length}d}") is (number < limit), number
    for key, is_taken in (("text", True), ("漢字", True), ("-1", False), ("1e3", False)):
        assert validator.is_valid(key) is is_taken
