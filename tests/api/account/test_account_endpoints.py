"""Usage, logs, billing and models over HTTP, one row a rule, on a real server."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.conftest import FakeChat, chat_body
from tests.api.helpers import PATH, check_error
from tests.api.threaded import ThreadedServer, threaded_server

COST_USD = 2.6e-7
"""Of the fake reply: 7 tokens at USD 0.02 and 3 at 0.04 a million."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedServer]:
    """A server whose key has had three replies: whole, streamed, of the older endpoint."""
    with threaded_server(FakeChat(), tmp_path_factory.mktemp("usage")) as server:
        headers = {"Authorization": f"Bearer {server.api_key}"}
        with httpx.Client(base_url=server.url, headers=headers) as client:
            for path, body in (
                (PATH, chat_body()),
                (PATH, chat_body(stream=True)),
                ("/v1/completions", {"model": "nano", "prompt": "One"}),
            ):
                headers = {"x-client-request-id": "mine"}
                assert client.post(path, json=body, headers=headers).status_code == 201
        yield server


@pytest.fixture
def client(server: ThreadedServer) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        yield client


def get(client: httpx.Client, path: str, **parameters: Any) -> dict[str, Any]:
    response = client.get(path, params=parameters)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_usage(client: httpx.Client) -> None:
    body = get(client, "/v2/usage", period="24h")
    assert list(body) == ["api_key_prefix", "start", "end", "spend", "currency", "requests"]
    assert (body["requests"], body["currency"]) == (3, "USD")
    assert body["spend"] == pytest.approx(3 * COST_USD)


def test_usage_in_detail(client: httpx.Client) -> None:
    body = get(client, "/v2/usage/detail", period="7d", group_by="day,model", tz="Asia/Kathmandu")
    (model,), (group,) = body["models"], body["groups"]
    assert (model["model"], model["requests"]) == ("nestling-nano", 3)
    assert group["tokens"] == {"input": 21, "output": 9, "total": 30}
    assert group["requests"] == {"total": 3, "charged": 3, "succeeded": 3, "failed": 0}
    assert "groups" not in get(client, "/v2/usage/detail", period="7d")


def test_logs(client: httpx.Client) -> None:
    body = get(client, "/v2/logs", period="24h", limit=2, status="succeeded")
    assert body["pagination"] == {"limit": 2, "offset": 0, "total": 3, "has_more": True}
    rest = get(client, "/v2/logs", period="24h", limit=2, offset=2)
    assert len(rest["data"]) == 1
    assert rest["pagination"]["has_more"] is False
    for row in (*body["data"], *rest["data"]):
        assert row["tokens"] == {"input": 7, "output": 3, "total": 10}
        assert row["cost"] == {"usd": pytest.approx(COST_USD), "credits": 1}
        assert row["client_request_id"] == "mine"
        assert row["inference_id"].startswith("gen-")
    assert get(client, "/v2/logs", period="24h", status="failed")["data"] == []
    assert get(client, "/v2/logs", period="24h", model="another")["data"] == []
    for name in ("nestling-nano", "nano", "google/gemma-3n-e4b-it"):
        assert get(client, "/v2/logs", period="24h", model=name)["pagination"]["total"] == 3


BAD_QUERIES = [
    ("/v2/usage", {}, "period"),
    ("/v2/usage", {"period": "24h", "start": "2026-01-01"}, "period"),
    ("/v2/usage", {"start": "2026-01-01"}, "end"),
    ("/v2/usage", {"end": "2026-01-01"}, "start"),
    ("/v2/usage", {"start": "yesterday", "end": "2026-01-01"}, "start"),
    ("/v2/usage", {"start": "2026-02-01", "end": "2026-01-01"}, "end"),
    ("/v2/usage", {"start": "2026-01-01", "end": "2026-04-04"}, "end"),
    ("/v2/usage", {"period": "93d"}, "period"),
    ("/v2/usage", {"period": "1w"}, "period"),
    ("/v2/usage", {"period": ["24h", "7d"]}, "period"),
    ("/v2/usage", {"period": "24h", "pony": "1"}, "pony"),
    ("/v2/usage/detail", {"period": "24h", "group_by": "hour"}, "group_by"),
    ("/v2/usage/detail", {"period": "24h", "tz": "Mars"}, "tz"),
    ("/v2/logs", {"period": "24h", "limit": "0"}, "limit"),
    ("/v2/logs", {"period": "24h", "limit": "101"}, "limit"),
    ("/v2/logs", {"period": "24h", "limit": "x"}, "limit"),
    ("/v2/logs", {"period": "24h", "offset": "-1"}, "offset"),
    ("/v2/logs", {"period": "24h", "status": "odd"}, "status"),
    ("/v2/billing/transactions", {"cursor": "what"}, "cursor"),
    ("/v2/billing/transactions", {"direction": "UP"}, "direction"),
    ("/v2/billing/transactions", {"limit": "101"}, "limit"),
]


@pytest.mark.parametrize(
    ("path", "parameters", "param"), BAD_QUERIES, ids=[f"{q[0]} {q[1]}" for q in BAD_QUERIES]
)
def test_bad_queries(
    client: httpx.Client, path: str, parameters: dict[str, Any], param: str
) -> None:
    body = check_error(client.get(path, params=parameters), 400, "invalid_query")
    assert body["error"]["param"] == param
    assert body["message"].startswith("Query validation error!")


def test_another_keys_use_needs_a_management_key(
    server: ThreadedServer, client: httpx.Client
) -> None:
    prefix = server.api_key.removeprefix("g3n_live_")[:8]
    window = {"period": "24h"}
    assert get(client, "/v2/usage", **window, key_prefix=prefix)["requests"] == 3
    refused = client.get("/v2/usage", params={**window, "key_prefix": "00000000"})
    check_error(refused, 403, "management_key_required")
    headers = {"Authorization": f"Bearer {server.management_key}"}
    with httpx.Client(base_url=server.url, headers=headers) as manager:
        assert get(manager, "/v2/usage", **window)["requests"] == 0
        named = get(manager, "/v2/usage", **window, key_prefix=prefix)
        assert (named["requests"], named["api_key_prefix"]) == (3, prefix)
        unknown = manager.get("/v2/usage", params={**window, "key_prefix": "00000000"})
        check_error(unknown, 404, "not_found")


def test_billing(client: httpx.Client) -> None:
    balance = get(client, "/v1/billing/balance")
    assert balance["balance"] == 2_000_000_000_000_000
    assert get(client, "/v2/billing") == {"current_balance": 1e9, "currency": "USD"}
    first = get(client, "/v2/billing/transactions", limit=2)
    cursor = first["pagination"]["next_cursor"]
    second = get(client, "/v2/billing/transactions", limit=2, cursor=cursor)
    assert [len(first["data"]), len(second["data"])] == [2, 1]
    assert second["pagination"] == {"next_cursor": None, "has_more": False}
    references = [row["reference_id"] for row in (*first["data"], *second["data"])]
    assert len(set(references)) == 3
    for row in first["data"]:
        assert (row["direction"], row["type"]) == ("CHARGE", "MODEL_USAGE")
        assert row["amount"]["usd"] == pytest.approx(COST_USD)


MODEL_FILTERS = [
    ({}, 3),
    ({"id": "nano"}, 3),  # by id and by alias
    ({"id": "another"}, 0),
    ({"type": "openai/chat-completions"}, 3),
    ({"type": "openai/images"}, 0),
    ({"tags": "playground:chat"}, 3),
    ({"input_modalities": "text,image"}, 3),
    ({"output_modalities": "image"}, 0),
    ({"capabilities": "streaming", "modalities": "audio"}, 0),
    ({"capabilities": ["vision", "STREAMING"]}, 3),
]


@pytest.mark.parametrize(("filters", "count"), MODEL_FILTERS, ids=str)
def test_model_filters(server: ThreadedServer, filters: dict[str, Any], count: int) -> None:
    for path in ("/v1/models", "/models", "/api/v1/models"):
        answer = httpx.get(server.url + path, params=filters).json()
        assert answer["object"] == "list"
        assert len(answer["data"]) == count


@pytest.mark.parametrize(
    ("parameters", "sections"),
    [
        ({}, set()),
        ({"include": "pricing"}, {"pricing"}),
        ({"include": "pricing,modalities"}, {"pricing", "modalities"}),
        ({"include": ["pricing", "capabilities"]}, {"pricing", "capabilities"}),
        ({"include": "all"}, {"pricing", "modalities", "capabilities"}),
        ({"details": "true"}, {"pricing", "modalities", "capabilities"}),
    ],
    ids=str,
)
def test_model_sections(server: ThreadedServer, parameters: Any, sections: set[str]) -> None:
    model = httpx.get(f"{server.url}/v1/models/nano", params=parameters).json()
    assert sections == {"pricing", "modalities", "capabilities"} & set(model)


MODEL_PATHS = [
    ("/v1/models/google/gemma-3n-e4b-it", 200),
    ("/v1/models/google%2Fgemma-3n-e4b-it", 200),
    ("/models/google/gemma-3n-e4b-it", 200),
    ("/model/google/gemma-3n-e4b-it", 200),
    ("/model/Google/Gemma-3n-E4B-it", 200),
    ("/v1/models/gpt-4", 404),
    ("/model/gpt-4", 404),
    ("/model/google", 404),
]


@pytest.mark.parametrize(("path", "status"), MODEL_PATHS)
def test_one_model(server: ThreadedServer, path: str, status: int) -> None:
    response = httpx.get(server.url + path)
    if status == 404:
        check_error(response, 404, "model_not_found")
        return
    body = response.json()
    assert response.status_code == 200
    assert body["object"] == "model"
    model = body["data"] if path.startswith("/model/") else body
    assert model["id"] == "google/gemma-3n-e4b-it"
    assert {"created", "owned_by", "type", "aliases", "info", "tags"} <= set(model)


@pytest.mark.parametrize("path", ["/v1/models", "/model/nano", "/v1/models/nano"])
def test_models_have_tags(server: ThreadedServer, path: str) -> None:
    tag = httpx.get(server.url + path).headers["etag"]
    for sent in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
        again = httpx.get(server.url + path, headers={"if-none-match": sent})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert httpx.get(server.url + path, headers={"if-none-match": '"x"'}).status_code == 200


def test_every_answer_tells_its_share(client: httpx.Client) -> None:
    response = client.post(PATH, json=chat_body())
    for kind in ("requests", "tokens"):
        limit = int(response.headers[f"x-ratelimit-limit-{kind}"])
        assert 0 <= int(response.headers[f"x-ratelimit-remaining-{kind}"]) < limit
        assert response.headers[f"x-ratelimit-reset-{kind}"].endswith("s")
    assert response.headers["x-aimlapi-credits-used"] == "1"
    assert float(response.headers["x-aimlapi-usd-spent"]) == pytest.approx(COST_USD)


def test_head_is_get_without_a_body(client: httpx.Client) -> None:
    for path in ("/v1/models", "/v1/key", "/livez", "/v2/billing"):
        head, whole = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
