"""Management of keys over HTTP, one row a rule, and that keys act at once, on a real server."""

import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import FakeChat, chat_body
from tests.api.helpers import PATH, check_error
from tests.api.threaded import ThreadedServer, threaded_server

FIELDS = ["name", "disabled", "prefix", "scopes", "limit", "expires_at", "created_at"]
FIELDS += ["updated_at", "monthly_usage"]


@pytest.fixture(scope="module")
def chat() -> FakeChat:
    return FakeChat()


@pytest.fixture(scope="module")
def server(chat: FakeChat, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedServer]:
    with threaded_server(chat, tmp_path_factory.mktemp("keys")) as server:
        yield server


def client_with(server: ThreadedServer, key: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=20)


@pytest.fixture
def manager(server: ThreadedServer) -> Iterator[httpx.Client]:
    with client_with(server, server.management_key) as client:
        yield client


def make(manager: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = manager.post("/v1/keys", json=fields)
    assert response.status_code == 200, response.text
    data: dict[str, Any] = response.json()["data"]
    return data


def ask(server: ThreadedServer, key: str, **fields: Any) -> httpx.Response:
    with client_with(server, key) as client:
        return client.post(PATH, json=chat_body(**fields))


def test_a_key_is_shown_once(server: ThreadedServer, manager: httpx.Client) -> None:
    made = make(manager, name="once")
    secret = made.pop("key")
    assert list(made) == FIELDS
    assert re.fullmatch(r"g3n_live_[0-9A-Za-z]{46}", secret)
    assert secret.removeprefix("g3n_live_").startswith(made["prefix"])
    assert len(made["prefix"]) == 8
    listed = manager.get("/v1/keys").json()["data"]
    assert listed[-1] == made
    assert [key["created_at"] for key in listed] == sorted(key["created_at"] for key in listed)
    assert secret not in json.dumps(listed)
    with client_with(server, secret) as client:
        assert client.get("/v1/key").json() == {"data": made}


ACCEPTED = [
    {},
    {"name": None, "limit": None, "scopes": None, "expires_at": None},
    {"name": "n" * 100},
    {"limit": {"retention": "no_reset", "threshold": 0}},
    {"limit": {"retention": "day", "threshold": 1e-9}},
    {"limit": {"retention": "day", "threshold": 0.5}},
    {"limit": {"retention": "week", "threshold": 3}},
    {"limit": {"retention": "month", "threshold": 1_000_000_000}},
    {"scopes": []},
    {"scopes": ["model:chat", "model:responses", "model:image", "model:audio"]},
    {"scopes": ["model:video", "model:embeddings", "model:speech", "model:ocr"]},
]


@pytest.mark.parametrize("fields", ACCEPTED, ids=str)
def test_accepted(manager: httpx.Client, fields: dict[str, Any]) -> None:
    made = make(manager, **fields)
    for name, value in fields.items():
        assert made[name] == value
    assert made["disabled"] is False
    assert made["monthly_usage"] == 0


REFUSED = [
    ({"name": ""}, "name", "empty_string"),
    ({"name": "n" * 101}, "name", "string_above_max_length"),
    ({"name": "a\nb"}, "name", "invalid_value"),
    ({"name": 5}, "name", "invalid_type"),
    ({"limit": 5}, "limit", "invalid_type"),
    ({"limit": {}}, "limit.retention", "missing_required_parameter"),
    ({"limit": {"retention": "day"}}, "limit.threshold", "missing_required_parameter"),
    ({"limit": {"retention": "year", "threshold": 1}}, "limit.retention", "invalid_value"),
    (
        {"limit": {"retention": "day", "threshold": -1}},
        "limit.threshold",
        "decimal_below_min_value",
    ),
    (
        {"limit": {"retention": "day", "threshold": 4e-10}},
        "limit.threshold",
        "decimal_below_min_value",
    ),
    ({"limit": {"retention": "day", "threshold": "1"}}, "limit.threshold", "invalid_type"),
    ({"limit": {"retention": "day", "threshold": True}}, "limit.threshold", "invalid_type"),
    ({"limit": {"retention": "day", "threshold": 1, "x": 1}}, "limit.x", "unknown_parameter"),
    ({"scopes": "model:chat"}, "scopes", "invalid_type"),
    ({"scopes": ["model:chat", "chat"]}, "scopes[1]", "invalid_value"),
    ({"scopes": [1]}, "scopes[0]", "invalid_type"),
    ({"key": "mine"}, "key", "unknown_parameter"),
    ({"prefix": "mine"}, "prefix", "unknown_parameter"),
]


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
@pytest.mark.parametrize(
    ("fields", "param", "code"), REFUSED, ids=[str(r[0])[:50] for r in REFUSED]
)
def test_refused(
    manager: httpx.Client, method: str, fields: dict[str, Any], param: str, code: str
) -> None:
    path = "/v1/keys" if method == "POST" else f"/v1/keys/{make(manager)['prefix']}"
    before = manager.get("/v1/keys").json()
    error = check_error(manager.request(method, path, json=fields), 400, code)["error"]
    assert error["param"] == param
    assert manager.get("/v1/keys").json() == before


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"disabled": True}, "unknown_parameter"),
        ({"expires_at": "2030-01-01"}, "invalid_value"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "invalid_value"),
        ({"expires_at": "9999-12-31T23:59:59-01:00"}, "invalid_value"),
        ({"expires_at": "0001-01-01T00:00:00+01:00"}, "invalid_value"),
    ],
    ids=str,
)
def test_refused_when_made(manager: httpx.Client, fields: dict[str, Any], code: str) -> None:
    check_error(manager.post("/v1/keys", json=fields), 400, code)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_changes_leave_the_rest(manager: httpx.Client, method: str) -> None:
    made = make(manager, name="before", scopes=["model:chat"])
    del made["key"]
    path = f"/v1/keys/{made['prefix']}"
    changes: list[dict[str, Any]] = [
        {"name": "after"},
        {"disabled": True},
        {"limit": {"retention": "week", "threshold": 2.5}},
        {"scopes": []},
        {"disabled": False, "name": None, "limit": None, "scopes": None},
    ]
    for fields in changes:
        response = manager.request(method, path, json=fields)
        assert response.status_code == 200
        changed = response.json()["data"]
        assert changed["updated_at"] >= made["updated_at"]
        assert changed == {**made, **fields, "updated_at": changed["updated_at"]}
        assert manager.get(path).json() == {"data": changed}
        made = changed


def test_deleted_keys_are_gone(server: ThreadedServer, manager: httpx.Client) -> None:
    made = make(manager)
    path = f"/v1/keys/{made['prefix']}"
    answer = manager.delete(path)
    assert answer.status_code == 200
    assert answer.json() == {"data": {"prefix": made["prefix"], "deleted": True}}
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        check_error(manager.request(method, path, json={}), 404, "not_found")
    check_error(ask(server, made["key"]), 401, "invalid_api_key")


def test_kinds_of_keys_are_apart(server: ThreadedServer, manager: httpx.Client) -> None:
    check_error(ask(server, server.management_key), 403, "inference_key_required")
    management_prefix = server.management_key.removeprefix("g3n_live_")[:8]
    check_error(manager.delete(f"/v1/keys/{management_prefix}"), 404, "not_found")
    with client_with(server, server.api_key) as client:
        for method, path in (("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", "/v1/keys/x")):
            check_error(client.request(method, path), 403, "management_key_required")


STOPS = [
    ({"disabled": True}, {"disabled": False}, 401, "api_key_disabled"),
    ({"scopes": ["model:image"]}, {"scopes": ["model:chat"]}, 403, "scope_not_allowed"),
    (
        {"limit": {"retention": "no_reset", "threshold": 0}},
        {"limit": None},
        403,
        "insufficient_quota",
    ),
]


@pytest.mark.parametrize(("stop", "resume", "status", "code"), STOPS, ids=[s[3] for s in STOPS])
def test_keys_act_on_the_next_request(
    server: ThreadedServer,
    manager: httpx.Client,
    stop: dict[str, Any],
    resume: dict[str, Any],
    status: int,
    code: str,
) -> None:
    made = make(manager)
    path = f"/v1/keys/{made['prefix']}"
    for _ in range(2):
        assert ask(server, made["key"]).status_code == 201
        assert manager.patch(path, json=stop).status_code == 200
        check_error(ask(server, made["key"]), status, code)
        check_error(ask(server, made["key"], stream=True), status, code)
        assert manager.patch(path, json=resume).status_code == 200
    assert ask(server, made["key"]).status_code == 201


def test_keys_expire(server: ThreadedServer, manager: httpx.Client) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    made = make(manager, expires_at=soon.isoformat())
    assert ask(server, made["key"]).status_code == 201
    time.sleep(2.1)
    check_error(ask(server, made["key"]), 401, "api_key_expired")


@pytest.mark.parametrize("is_deleted", [False, True], ids=["disabled", "deleted"])
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "stream"])
def test_keys_act_on_running_replies(tmp_path: Path, is_deleted: bool, is_streamed: bool) -> None:
    """Soon; a whole reply with the status, a stream with an error frame and the end."""
    slow = FakeChat(pieces=("x",) * 1000, delay_s=0.02)
    with threaded_server(slow, tmp_path) as server, client_with(server, server.management_key) as m:
        made = make(m)
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(ask(server, made["key"], stream=is_streamed))
        )
        asking.start()
        deadline = time.monotonic() + 5
        while slow.num_taken < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        path = f"/v1/keys/{made['prefix']}"
        done = m.delete(path) if is_deleted else m.patch(path, json={"disabled": True})
        assert done.status_code == 200
        asking.join(4)
        assert not asking.is_alive()
    code = "invalid_api_key" if is_deleted else "api_key_disabled"
    (answer,) = answers
    if is_streamed:
        assert answer.status_code == 201
        *_, last, rest = answer.text.split("\n\n")
        assert rest == ""
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == code
    else:
        check_error(answer, 401, code)
    assert slow.ended == ["aborted"]


def test_a_limit_is_spent_and_holds(server: ThreadedServer, manager: httpx.Client) -> None:
    """A reply costs 260 nano-USD here and 300 are reserved before it: 500 are enough for one."""
    made = make(manager, limit={"retention": "day", "threshold": 0.0000005})
    answer = ask(server, made["key"], max_tokens=4)
    assert answer.status_code == 201
    assert answer.headers["x-aimlapi-usd-spent"] == "0.000000260"
    spent = manager.get(f"/v1/keys/{made['prefix']}").json()["data"]["monthly_usage"]
    assert spent == pytest.approx(2.6e-7)
    error = check_error(ask(server, made["key"], max_tokens=4), 403, "insufficient_quota")
    assert "credits" in error["message"]


def test_a_broken_database_is_503_until_it_is_mended(tmp_path: Path) -> None:
    """Fails closed, for keys at the door and for reports, and comes back by itself."""
    with threaded_server(FakeChat(), tmp_path) as server:
        with closing(sqlite3.connect(tmp_path / "accounts.db")) as database:
            database.execute("ALTER TABLE api_key RENAME TO away")
            database.commit()
            for secret in (server.api_key, server.management_key):
                with client_with(server, secret) as client:
                    for method, path in (("POST", PATH), ("GET", "/v1/keys"), ("GET", "/v1/key")):
                        answer = client.request(method, path)
                        check_error(answer, 503, "store_error")
                        assert int(answer.headers["retry-after"]) >= 1
                        assert "sql" not in answer.text.lower()
            database.execute("ALTER TABLE away RENAME TO api_key")
            database.commit()
        with client_with(server, server.api_key) as client:
            assert client.post(PATH, json=chat_body()).status_code == 201
