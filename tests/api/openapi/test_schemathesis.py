"""schemathesis against a real server: by our own document, and by the hosted API's page.

All its checks are on. Where the contract says otherwise, one check is left out for one operation,
with the reason beside it. `NESTLING_TEST_EXAMPLES` is how many cases each operation gets.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, CheckFunction, load_all_checks
from schemathesis.core.result import Ok

from nestling.api.requests.chat import KNOWN_FIELDS
from nestling.chat.messages import MAX_FILES
from nestling.settings import Settings
from tests.api.conftest import FakeChat
from tests.api.page_schema import PAGE, PAGE_BODY
from tests.api.threaded import ThreadedServer, threaded_server

load_all_checks()
NUM_EXAMPLES = int(os.environ.get("NESTLING_TEST_EXAMPLES", "15"))
CHECK_NAMES = ["positive_data_acceptance", "negative_data_rejection", "status_code_conformance"]
ACCEPTS_VALID, REFUSES_INVALID, DOCUMENTED_STATUS = cast(
    "list[CheckFunction]", CHECKS.get_by_names(CHECK_NAMES)
)
Case = schemathesis.Case[Any]

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


def examples(max_examples: int = NUM_EXAMPLES, stateful_step_count: int = 50) -> settings:
    """The same cases on every run, so that a failure is one that the change before it made."""
    return settings(
        max_examples=max_examples,
        stateful_step_count=stateful_step_count,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def examine(
    operation: Any,
    mode: GenerationMode,
    check: Callable[[Any], None],
    num_cases: int = NUM_EXAMPLES,
) -> None:
    """Run `check` on cases of one operation; one without parameters has no invalid cases."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @examples(num_cases)
    def run(case: Case) -> None:
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
        assert isinstance(found, Ok)
        operation = found.ok()
        is_management = operation.path.startswith("/v1/keys")
        key = server.management_key if is_management else server.api_key
        excluded = [ACCEPTS_VALID] if operation.path in WINDOWED + PAGED else []

        def check(case: Case, key: str = key, excluded: Any = excluded) -> None:
            assume(not has_too_many_files(case.body))
            if mode is GenerationMode.POSITIVE:
                to_come(case.body)
            headers = {"Authorization": f"Bearer {key}"}
            case.call_and_validate(headers=headers, excluded_checks=excluded)

        examine(operation, mode, check)


def to_come(body: Any) -> None:
    """Let a time that must lie ahead do so: no schema says so."""
    if isinstance(body, dict) and isinstance(body.get("expires_at"), str):
        body["expires_at"] = "2999-12-31T23:59:59Z"


def has_too_many_files(body: Any) -> bool:
    """Whether there are more files in all messages than a request may have: no schema says so."""
    messages = body.get("messages") if isinstance(body, dict) else None
    contents = [m.get("content") for m in messages or () if isinstance(m, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    kinds = [part.get("type") for part in parts if isinstance(part, dict)]
    return kinds.count("file") > MAX_FILES


def test_keys_live_and_die_as_documented(tmp_path: Path) -> None:
    """Sequences of calls that feed each other: a key that was made is found, a deleted one not."""
    with threaded_server(FakeChat(), tmp_path) as server:
        seen = walk_through_keys(server)
    for action in ("POST all", "GET all", "GET one", "PATCH one", "PUT one", "DELETE one"):
        assert seen[action, True], f"no sequence did {action}: {seen}"


def walk_through_keys(server: ThreadedServer) -> Counter[tuple[str, bool]]:
    """How often each action was done, with success or without, along the document's links."""
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    headers = {"Authorization": f"Bearer {server.management_key}"}
    keys = f"{server.url}/v1/keys"
    seen: Counter[tuple[str, bool]] = Counter()

    class Keys(document.include(path_regex="^/v1/keys").as_state_machine()):  # type: ignore[misc] # made at run time
        def setup(self) -> None:
            """Begin without keys: what is drawn must not depend on the sequence before."""
            for key in requests.get(keys, headers=headers, timeout=10).json()["data"]:
                requests.delete(f"{keys}/{key['prefix']}", headers=headers, timeout=10)

        def before_call(self, case: Case) -> None:
            if case.meta is None or case.meta.generation.mode is GenerationMode.POSITIVE:
                to_come(case.body)

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {"headers": headers}

        def after_call(self, response: Any, case: Case) -> None:
            is_one = "{" in case.operation.path
            seen[f"{case.method} {'one' if is_one else 'all'}", response.status_code == 200] += 1

    Keys.run(settings=examples(max_examples=5 * NUM_EXAMPLES, stateful_step_count=8))
    return seen


def within_decisions(body: Any) -> None:
    """Bring what the page's schema leaves open within the decided bounds of docs/api.md.

    The page bounds none of these: `top_k` below -1, penalties of 0 and less, more than 4 stop
    strings and empty ones, counts beyond 2^31 and seeds beyond 2^63, bias keys that look like
    numbers, no messages or parts at all, files that are no PDF, and fields of other models by their
    names.
    """
    for name in KNOWN_FIELDS - PAGE_BODY["properties"].keys():
        body.pop(name, None)
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
        for name in ("tool_calls", "function_call", "audio"):
            item.pop(name, None)
        if isinstance(item.get("content"), list):
            texts = [part for part in item["content"] if part["type"] == "text"]
            item["content"] = texts or ""


def without_tolerance(value: Any) -> Any:
    """Drop what is accepted on purpose though the page's schema does not: null as absent."""
    if isinstance(value, dict):
        return {k: without_tolerance(v) for k, v in value.items() if v is not None}
    return [without_tolerance(item) for item in value] if isinstance(value, list) else value


def test_the_page_is_served(strict_server: ThreadedServer) -> None:
    schema = schemathesis.openapi.from_dict(PAGE)
    operation = schema["/v1/chat/completions"]["POST"]

    def check(case: Case) -> None:
        within_decisions(case.body)
        headers = {"Authorization": f"Bearer {strict_server.api_key}"}
        response = case.call_and_validate(base_url=strict_server.url, headers=headers)
        assert response.status_code == 201

    examine(operation, GenerationMode.POSITIVE, check)


def test_what_the_page_excludes_is_refused(strict_server: ThreadedServer) -> None:
    schema = schemathesis.openapi.from_dict(PAGE)
    operation = schema["/v1/chat/completions"]["POST"]
    # OpenAPI 3.0's `nullable` does not matter where `without_tolerance` has dropped the nulls.
    validator = jsonschema.Draft4Validator(PAGE_BODY)
    num_refused = 0

    def check(case: Case) -> None:
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
            nonlocal num_refused
            num_refused += 1
            assert response.status_code in {400, 415}

    # Many of the cases differ from the page in a header or in a null only.
    examine(operation, GenerationMode.NEGATIVE, check, 4 * NUM_EXAMPLES)
    assert num_refused > NUM_EXAMPLES // 2
