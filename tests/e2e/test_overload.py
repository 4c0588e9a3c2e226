"""A full queue is said at once, with Retry-After, and nobody who was taken suffers from it."""

import contextlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from nestling.engine.config import EngineConfig
from tests.e2e.conftest import start_server, stop_server

URL = "/v1/chat/completions"
PLACES = 1 + EngineConfig(model="").max_waiting
CHOICES = 8
END_TOKEN_IDS = (1, 6)
"""Of the embedded model: an answer that may not use them has no end of its own."""


def body(**fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "Hello!"}]
    return {"model": "google/gemma-3n-e4b-it", "messages": messages, **fields}


def hold(client: httpx.Client, until: float) -> None:
    """Ask for eight endless answers, and hang up when it is time."""
    ends = {str(token_id): -100 for token_id in END_TOKEN_IDS}
    long = body(stream=True, n=CHOICES, max_tokens=2000, temperature=2, logit_bias=ends)
    with (
        contextlib.suppress(httpx.TimeoutException),
        client.stream("POST", URL, json=long, timeout=until - time.monotonic()) as response,
    ):
        for _ in response.iter_lines():
            if time.monotonic() > until:
                return


def until_held(client: httpx.Client, num_answers: int) -> None:
    """Wait until the engine has that many answers, running or waiting."""
    deadline = time.monotonic() + 5
    held = 0
    while held < num_answers:
        assert time.monotonic() < deadline, f"the engine has {held} of {num_answers} answers"
        text = client.get("/metrics").text
        counts = re.findall(r"^nestling_engine_num_(?:running|waiting) (\S+)$", text, re.MULTILINE)
        held = int(sum(map(float, counts)))


def test_full_queue(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    (data_dir / "nestling.toml").write_text("max_num_seqs = 1\n")
    server = start_server(data_dir)
    num_holders = PLACES // CHOICES
    try:
        with server.client() as client, ThreadPoolExecutor(num_holders + 1) as pool:
            for _ in range(num_holders + 1):
                pool.submit(hold, client, time.monotonic() + 10)
            until_held(client, num_holders * CHOICES)
            taken_s = []
            for is_stream in (False, True) * 10:
                begin = time.monotonic()
                response = client.post(URL, json=body(stream=is_stream, n=CHOICES))
                taken_s.append(time.monotonic() - begin)
                assert response.status_code == 503, response.text
                assert json.loads(response.text)["error"]["code"] == "overloaded"
                assert int(response.headers["retry-after"]) >= 1
            assert sorted(taken_s)[len(taken_s) // 2] < 0.5
        with server.client() as client:
            assert client.post(URL, json=body(max_tokens=2)).status_code == 201
    finally:
        assert stop_server(server) == 0
