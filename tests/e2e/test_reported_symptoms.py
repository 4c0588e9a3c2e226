"""What users of such servers have reported of their engines, one test a report, on the real one.

The numbers are those of docs/api.md, "Reported elsewhere"; the reports about text and HTTP are in
tests/api/test_reported_symptoms.py.
"""

import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from nestling.chat.tokenizer import Tokenizer
from nestling.weights.catalog import embedded_model
from nestling.weights.checkpoint import load_checkpoint
from tests.e2e.conftest import Server, start_server, stop_server
from tests.e2e.replies import endless, engine_figure, no_end_of_turn, replies_ended

PATH = "/v1/chat/completions"
STORY = "Tell me a short story about a fox."


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The embedded model's."""
    vocabulary = load_checkpoint(embedded_model().path).vocabulary
    assert vocabulary is not None
    return Tokenizer(vocabulary)


def body(content: str = STORY, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": "google/gemma-3n-e4b-it", "messages": messages, **fields}


def ask(client: httpx.Client, content: str = STORY, **fields: Any) -> dict[str, Any]:
    """A whole answer of at most 40 tokens."""
    response = client.post(PATH, json=body(content, **{"max_tokens": 40, **fields}))
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


def say(client: httpx.Client, content: str = STORY, **fields: Any) -> str:
    """Its text."""
    text: str = ask(client, content, **fields)["choices"][0]["message"]["content"]
    return text


def wait_for_an_idle_engine(server: Server) -> None:
    """Nothing runs and nothing waits, at once: the rest of the answers would take much longer."""
    deadline = time.monotonic() + 3
    while engine_figure(server, "num_running") or engine_figure(server, "num_waiting"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def send(server: Server, fields: dict[str, Any]) -> socket.socket:
    """A connection on which a request has been sent and no answer read."""
    content = json.dumps(fields)
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall((head + content).encode())
    return connection


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "whole"])
def test_06_nothing_runs_for_a_client_that_is_gone(server: Server, is_streamed: bool) -> None:
    """Twelve clients of eight choices each, some computed and some queued, all gone at once."""
    wait_for_an_idle_engine(server)
    before = replies_ended(server, "aborted")
    clients = [send(server, body(stream=is_streamed, **endless())) for _ in range(12)]
    deadline = time.monotonic() + 5
    while engine_figure(server, "num_waiting") == 0:
        assert time.monotonic() < deadline, "the queue never filled"
    for client in clients:
        client.close()
    assert replies_ended(server, "aborted", at_least=before + 12) == before + 12
    wait_for_an_idle_engine(server)


def test_09_logit_bias_acts_by_id_and_by_text(client: httpx.Client, tokenizer: Tokenizer) -> None:
    """A comma, banned by either kind of key, is gone; a bias of 100 picks one token throughout."""
    count = "Count from 3 to 7."
    assert "," in say(client, count, temperature=0)
    (comma,) = tokenizer.encode(",")
    for key in (str(comma), ","):
        assert "," not in say(client, count, temperature=0, logit_bias={key: -100})
    assert say(client, count, logit_bias={str(comma): 100}, max_tokens=5) == ",,,,,"


CHANGES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"top_p": 0.01},
    {"top_k": 1},
    {"min_p": 1},
    {"top_a": 1},
    {"repetition_penalty": 1.8},
    {"frequency_penalty": 2},
    {"presence_penalty": 2},
    {"seed": 8},
    {"stop": ["a"]},
    {"logit_bias": {"e": -50}},
    {"max_tokens": 3},
    {"max_completion_tokens": 3},
]


@pytest.mark.parametrize("change", CHANGES, ids=[next(iter(change)) for change in CHANGES])
def test_10_every_field_acts(client: httpx.Client, change: dict[str, Any]) -> None:
    """With the seed fixed, the answer differs from the one without the field."""
    hot: dict[str, Any] = {"temperature": 1.6, "seed": 7, "logit_bias": no_end_of_turn()}
    change = {k: {**hot[k], **v} if isinstance(v, dict) else v for k, v in change.items()}
    plain = ask(client, **hot)
    assert ask(client, **hot)["choices"] == plain["choices"]
    assert ask(client, **{**hot, **change})["choices"] != plain["choices"]


@pytest.mark.parametrize("greedy", [{"top_p": 0.01}, {"top_k": 1}, {"min_p": 1}], ids=str)
def test_10_filters_at_their_bound_take_the_best_token(
    client: httpx.Client, greedy: dict[str, Any]
) -> None:
    """Each filter alone at its narrowest is greedy decoding."""
    assert say(client, temperature=1.2, **greedy) == say(client, temperature=0)


def test_10_n_acts(client: httpx.Client) -> None:
    """As many choices as asked for, each its own."""
    choices = ask(client, n=4, temperature=1.8, seed=3)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert len({choice["message"]["content"] for choice in choices}) > 1


@pytest.mark.parametrize("temperature", [0, 1.3])
def test_11_same_seed_same_answer_under_load(client: httpx.Client, temperature: float) -> None:
    """Alone, and eight times among eight strangers."""
    fields: dict[str, Any] = {"temperature": temperature, "seed": 11}
    alone = say(client, **fields)
    with ThreadPoolExecutor(16) as pool:
        strangers = [pool.submit(say, client, f"Story {i}", temperature=1) for i in range(8)]
        answers = [pool.submit(say, client, **fields) for _ in range(8)]
        assert {answer.result() for answer in answers} == {alone}
        assert all(stranger.result() is not None for stranger in strangers)


def test_12_no_seed_no_repetition(client: httpx.Client) -> None:
    """Six hot answers to one question are not one answer."""
    assert len({say(client, temperature=1.8) for _ in range(6)}) > 1


@pytest.mark.parametrize("num_words", [5_000, 2_000_000], ids=["kilobytes", "megabytes"])
def test_13_too_long_is_refused_with_both_numbers(client: httpx.Client, num_words: int) -> None:
    """Nothing is cut off silently, and megabytes of text are refused in seconds."""
    started = time.monotonic()
    response = client.post(PATH, json=body("word " * num_words, stream=True))
    assert time.monotonic() - started < 5
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    limit, came = (int(number) for number in re.findall(r"(\d+) tokens", error["message"])[:2])
    assert limit < came


def test_14_finish_reasons_are_true(client: httpx.Client) -> None:
    """length at max_tokens and the context's end; stop at the turn's end and at a stop string."""

    def reason(**fields: Any) -> tuple[str, int]:
        answer = ask(client, "Count from 3 to 7.", temperature=0, **fields)
        return answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]

    assert reason(max_tokens=2) == ("length", 2)
    assert reason()[0] == "stop"
    assert reason(stop=["5"])[0] == "stop"
    model = client.get("/v1/models/google/gemma-3n-e4b-it").json()
    context = model["info"]["contextLength"]
    why, num_tokens = reason(max_tokens=10**6, logit_bias=no_end_of_turn())
    assert why == "length"
    assert num_tokens < context


@pytest.mark.parametrize("top", [{}, {"top_logprobs": None}, {"top_logprobs": 0}], ids=str)
def test_19_logprobs_have_the_chat_shape(client: httpx.Client, top: dict[str, Any]) -> None:
    """Entries of token, logprob, bytes and top_logprobs, empty when none were asked for."""
    choice = ask(client, temperature=0, logprobs=True, **top)["choices"][0]
    assert list(choice["logprobs"]) == ["content", "refusal"]
    for entry in choice["logprobs"]["content"]:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        assert entry["top_logprobs"] == []
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert entry["logprob"] <= 0


def test_20_the_models_own_defaults_are_not_applied(client: httpx.Client, tmp_path: Path) -> None:
    """A generation_config.json that asks for greedy decoding changes no answer."""
    folder = tmp_path / "model"
    shutil.copytree(embedded_model().path, folder)
    config = json.loads((folder / "generation_config.json").read_text())
    config |= {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.1}
    (folder / "generation_config.json").write_text(json.dumps(config))
    greedy = start_server(tmp_path / "data", "--model", str(folder))
    try:
        with greedy.client() as other:
            for seed in (1, 2):
                assert say(other, seed=seed) == say(client, seed=seed)
                assert say(other, seed=seed) != say(other, temperature=0)
    finally:
        assert stop_server(greedy) == 0
