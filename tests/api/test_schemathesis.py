"""schemathesis against a real server: by our own document, and by the hosted API's page.

All its checks are on. Where the contract says otherwise, one check is left out for one operation,
with the reason beside it.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from nestling.settings import Settings

from .conftest import FakeChat
from .page_schema import PAGE
from .threaded import ThreadedServer, threaded_server

load_all_checks()
NUM_EXAMPLES = int(os.environ.get("NESTLING_TEST_EXAMPLES", "15"))
(ACCEPTS_VALID,) = CHECKS.get_by_names(["positive_data_acceptance"])
(REFUSES_INVALID,) = CHECKS.get_by_names(["negative_data_rejection"])
(DOCUMENTED_STATUS,) = CHECKS.get_by_names(["status_code_conformance"])

# `period` excludes `start` and `end`, and one of the two ways is needed: OpenAPI cannot say that.
WINDOWED = ("/v2/usage", "/v2/usage/detail", "/v2/logs")
# A cursor is what the page before said; `from` must lie before `to`: it cannot say that either.
PAGED = ("/v2/billing/transactions",)


def refuse_system(settings: Settings) -> Settings:
    return settings.model_copy(update={"system_role": "refuse"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedServer]:
    with threaded_server(FakeChat(), tmp_path_factory.mktemp("ours")) as server:
        yield server


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedServer]:
    data_dir = tmp_path_factory.mktemp("page")
    with threaded_server(FakeChat(), data_dir, refuse_system) as server:
        yield server


def examine(operation: Any, mode: GenerationMode, check: Callable[[Any], None]) -> None:
    """Run `check` on cases of one operation; one without parameters has no invalid cases."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def run(case: schemathesis.Case) -> None:
        check(case)

    try:
        run()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE
        assert "requestBody" not in operation.definition.raw


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_our_document(server: ThreadedServer, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    for found in document.get_all_operations():
        operation = found.ok()
        is_management = operation.path.startswith("/v1/keys")
        key = server.management_key if is_management else server.api_key
        excluded = [ACCEPTS_VALID] if operation.path in WINDOWED + PAGED else []

        def check(case: schemathesis.Case, key: str = key, excluded: Any = excluded) -> None:
            headers = {"Authorization": f"Bearer {key}"}
            case.call_and_validate(headers=headers, excluded_checks=excluded)

        examine(operation, mode, check)


def within_decisions(body: Any) -> None:
    """Bring what the page's schema leaves open within the decided bounds of docs/api.md.

    The page bounds none of these: `top_k` below -1, penalties of 0 and less, more than 4 stop
    strings and empty ones, counts beyond 2^31 and seeds beyond 2^63, bias keys that look like
    numbers, no messages at all, files that are no PDF.
    """
    body["messages"] = body["messages"] or [{"role": "user", "content": ""}]
    for name, least, most in (
        ("top_k", -1, None),
        ("repetition_penalty", 1e-9, None),
        ("seed", 1, 2**63 - 1),
        ("max_tokens", 1, 2**31 - 1),
        ("max_completion_tokens", 1, 2**31 - 1),
    ):
        if body.get(name) is not None:
            body[name] = max(body[name], least)
            body[name] = body[name] if most is None else min(body[name], most)
    stop = body.get("stop")
    if stop is not None:
        body["stop"] = (stop[:1024] or "x") if isinstance(stop, str) else stop[:4]
        assume(isinstance(stop, str) or all(1 <= len(item) <= 1024 for item in stop))
    assume(all(key.isalpha() for key in body.get("logit_bias") or ()))
    for item in body["messages"]:
        if isinstance(item.get("content"), list):
            item["content"] = [part for part in item["content"] if part["type"] == "text"]


def without_tolerance(value: Any) -> Any:
    """Drop what is accepted on purpose though the page's schema does not: null as absent."""
    if isinstance(value, dict):
        return {k: without_tolerance(v) for k, v in value.items() if v is not None}
    return [without_tolerance(item) for item in value] if isinstance(value, list) else value


def test_the_page_is_served(strict_server: ThreadedServer) -> None:
    schema = schemathesis.openapi.from_dict(PAGE)
    operation = schema["/v1/chat/completions"]["POST"]

    def check(case: schemathesis.Case) -> None:
        within_decisions(case.body)
        headers = {"Authorization": f"Bearer {strict_server.api_key}"}
        response = case.call_and_validate(base_url=strict_server.url, headers=headers)
        assert response.status_code == 201

    examine(operation, GenerationMode.POSITIVE, check)


def test_what_the_page_excludes_is_refused(strict_server: ThreadedServer) -> None:
    schema = schemathesis.openapi.from_dict(PAGE)
    operation = schema["/v1/chat/completions"]["POST"]
    validator = schemathesis_validator()

    def check(case: schemathesis.Case) -> None:
        headers = {"Authorization": f"Bearer {strict_server.api_key}"}
        # The page documents 201 only; `REFUSES_INVALID` counts what `without_tolerance` takes out.
        response = case.call_and_validate(
            base_url=strict_server.url,
            headers=headers,
            excluded_checks=[REFUSES_INVALID, DOCUMENTED_STATUS],
        )
        body = without_tolerance(case.body)
        if isinstance(body, dict) and body.get("stream_options") == {}:
            del body["stream_options"]  # include_usage may be absent: it is false then
        if not validator.is_valid(body):
            assert response.status_code in {400, 415}

    examine(operation, GenerationMode.NEGATIVE, check)


def schemathesis_validator() -> Any:
    """A validator of the page's body; OpenAPI 3.0's `nullable` does not matter without nulls."""
    import jsonschema

    body = PAGE["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    return jsonschema.Draft4Validator(body["content"]["application/json"]["schema"])
