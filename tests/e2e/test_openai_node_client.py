"""The `openai` client for Node.js against a real server: create, stream, helpers, errors, abort.

`make clients` fetches Node and the client and runs these; `make test` leaves them out.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import FakeChat
from tests.api.threaded import ThreadedServer, threaded_server
from tests.e2e.conftest import Server
from tests.e2e.replies import no_end_of_turn, replies_ended

pytestmark = pytest.mark.clients

FOLDER = Path(__file__).parent / "node"
NODE = Path(sys.executable).with_name("node")
TEXT = "Hello there 👋"


def run(name: str, url: str, key: str) -> Any:
    """What one scenario of client.mjs saw."""
    done = subprocess.run(
        [NODE, "client.mjs", name, url, key],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=60,
        env={"BANNED": json.dumps(no_end_of_turn())},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def chat() -> FakeChat:
    return FakeChat()


@pytest.fixture
def fake(chat: FakeChat, tmp_path: Path) -> Iterator[ThreadedServer]:
    """A server on the fake model, which can be told to fail."""
    with threaded_server(chat, tmp_path) as running:
        yield running


def test_create(server: Server) -> None:
    """A whole answer with its log-probabilities, usage and status 201."""
    seen = run("create", f"{server.url}/v1", server.key)
    data = seen["data"]
    choice = data["choices"][0]
    assert seen["status"] == 201
    assert seen["inference_id"] == data["id"]
    assert seen["request_id"]
    assert choice["finish_reason"] == "stop"
    assert "3" in choice["message"]["content"]
    shown = [entry["token"] for entry in choice["logprobs"]["content"]]
    assert "".join(shown) == choice["message"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in choice["logprobs"]["content"])
    assert data["usage"]["completion_tokens"] >= len(shown)


def test_stream(server: Server) -> None:
    """The pieces add up to the plain answer; usage comes last."""
    seen = run("stream", f"{server.url}/v1", server.key)
    *chunks, last = seen["chunks"]
    whole = seen["whole"]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert [c["choices"][0]["delta"].get("role") for c in chunks].count("assistant") == 1
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


def test_without_v1(server: Server) -> None:
    """The base URL works without /v1 too."""
    assert run("create", server.url, server.key)["status"] == 201


def test_stream_helper(server: Server) -> None:
    """`.stream()` rebuilds both choices, hears every piece and knows the usage."""
    seen = run("helper", f"{server.url}/v1", server.key)
    first, second = seen["final"]["choices"]
    assert first["message"]["role"] == second["message"]["role"] == "assistant"
    assert first["message"]["content"] == second["message"]["content"]
    assert sorted(seen["heard"]) == sorted(2 * first["message"]["content"])
    assert first["finish_reason"] == second["finish_reason"] == "stop"
    assert seen["usage"]["completion_tokens"] > 0


def test_text_completions(server: Server) -> None:
    """The older endpoint, whole and streamed."""
    seen = run("completions", f"{server.url}/v1", server.key)
    assert seen["whole"]["object"] == "text_completion"
    assert seen["whole"]["choices"][0]["text"] == seen["text"]
    assert seen["whole"]["usage"]["completion_tokens"] == 8


def test_models(server: Server) -> None:
    """The list, and one whose name holds a slash, as the client escapes it."""
    seen = run("models", f"{server.url}/v1", server.key)
    assert "google/gemma-3n-e4b-it" in seen["ids"]
    assert seen["one"]["id"] == "google/gemma-3n-e4b-it"


ERRORS = [
    ("key", "AuthenticationError", 401, "invalid_api_key", None),
    ("range", "BadRequestError", 400, "decimal_above_max_value", "temperature"),
    ("streamed", "BadRequestError", 400, "decimal_above_max_value", "top_p"),
    ("model", "BadRequestError", 400, "model_not_found", "model"),
    ("context", "BadRequestError", 400, "context_length_exceeded", "messages"),
    ("image", "BadRequestError", 400, "unsupported_content_part", "messages[0].content[1]"),
    ("route", "NotFoundError", 404, "not_found", None),
]


@pytest.fixture(scope="module")
def errors(server: Server) -> Any:
    """What each refusal looks like to the client."""
    return run("errors", f"{server.url}/v1", server.key)


@pytest.mark.parametrize(("name", "cls", "status", "code", "param"), ERRORS, ids=lambda v: str(v))
def test_errors(errors: Any, name: str, cls: str, status: int, code: str, param: str) -> None:
    """The class, status, code, param and request id that the client exposes; never "(no body)"."""
    seen = errors[name]
    assert seen["name"] == cls
    assert (seen["status"], seen["code"], seen["param"]) == (status, code, param)
    assert seen["requestID"]
    assert "no body" not in seen["message"]


def test_error_after_the_first_byte(fake: ThreadedServer, chat: FakeChat) -> None:
    """What came before is kept, then the client throws what the last frame says."""
    chat.error, chat.error_after = RuntimeError("secret inside 0x7f001234"), 2
    seen = run("failed_stream", f"{fake.url}/v1", fake.api_key)
    assert "".join(seen["pieces"]) == "Hello there"
    assert seen["failure"]["name"] == "APIError"
    assert seen["failure"]["code"] == "internal_error"
    assert "secret" not in seen["failure"]["message"]


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [("abort_by_break", None), ("abort_by_controller", "APIUserAbortError"),
     ("abort_helper", "APIUserAbortError")],
)  # fmt: skip
def test_abort(server: Server, scenario: str, expected: str | None) -> None:
    """Leaving a stream, aborting a whole request and aborting a helper all end the generation."""
    before = replies_ended(server, "aborted")
    seen = run(scenario, f"{server.url}/v1", server.key)
    assert seen.get("name") == expected
    assert replies_ended(server, "aborted", at_least=before + 1) == before + 1
