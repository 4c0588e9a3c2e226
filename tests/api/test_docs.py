"""docs/api.md names every route, field, code, header and limit that the code has."""

import ast
import re
from pathlib import Path

import pytest

from nestling.api.requests import chat as schemas
from nestling.chat import sampling
from nestling.chat.template import ROLES
from nestling.server import errors
from nestling.server.application import Application
from nestling.settings import Settings

from .helpers import methods_of, routes_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_routes(app: Application) -> None:
    routes = routes_of(app)
    assert routes
    for route in routes:
        for method in methods_of(route):
            assert f"`{method} {route.path}`" in PAGE


@pytest.mark.parametrize("name", sorted(schemas.KNOWN_FIELDS))
def test_fields(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_no_field_is_invented() -> None:
    fields = PAGE.split("## Request\n")[1].split("### Messages")[0]
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", fields, re.MULTILINE)
    names = {name.strip("` ") for row in rows for name in row.split(",")}
    assert names <= schemas.KNOWN_FIELDS
    assert {"model", "top_a", "n"} <= names


@pytest.mark.parametrize("role", ROLES)
def test_roles(role: str) -> None:
    assert f"`{role}`" in PAGE


def texts_in(nodes: list[ast.expr]) -> set[str]:
    """Return the nodes that are literal strings."""
    values = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return {value for value in values if isinstance(value, str)}


def codes_in_source() -> set[str]:
    """Return every code that a room raises and every class's own."""
    found = set(errors._HTTP_CODES.values())
    for path in (ROOT / "src" / "nestling").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "code":
                found |= texts_in([node.value])
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "invalid":
                found |= texts_in(node.args[2:])
    classes = [cls for cls, _, _ in errors._STATUSES]
    return found | {c.code for cls in classes for c in (cls, *cls.__subclasses__())}


def test_codes() -> None:
    codes = codes_in_source()
    of_rooms = {"invalid_json", "api_key_disabled", "invalid_file"}  # of api, accounts and chat
    assert of_rooms | {"model_not_found", "overloaded", "empty_array"} <= codes
    assert [code for code in sorted(codes) if f"`{code}`" not in PAGE] == []


def test_limits() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert f"({defaults['max_body_bytes'] // 2**20} MiB)" in PAGE
    for name in (
        "body_timeout_s",
        "write_timeout_s",
        "shutdown_timeout_s",
        "keep_alive_interval_s",
    ):
        assert f"{defaults[name]:g} s" in PAGE
        assert f"`{name}`" in PAGE
    for name in ("MAX_STOP_LENGTH", "MAX_LOGIT_BIASES", "MAX_BIAS_KEY_LENGTH"):
        assert str(getattr(sampling, name)) in PAGE


def test_each_report_has_its_test() -> None:
    rows = re.findall(r"^\| (\d+) \|", PAGE.split("## Reported elsewhere")[1], re.MULTILINE)
    assert rows == [str(number) for number in range(1, 28)]
    files = [ROOT / "tests" / room / "test_reported_symptoms.py" for room in ("api", "e2e")]
    tests = "".join(file.read_text(encoding="utf-8") for file in files)
    assert {int(n) for n in re.findall(r"def test_(\d\d)_", tests)} == {int(row) for row in rows}
