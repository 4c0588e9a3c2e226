"""The life of a server: first start, keys that act at once, a killed engine, a polite end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Server, free_port, nestling, start_server, stop_server

URL = "/v1/chat/completions"


def body(content: str, **parameters: object) -> dict[str, object]:
    """A request for one user message."""
    messages = [{"role": "user", "content": content}]
    return {"model": "google/gemma-3n-e4b-it", "messages": messages, **parameters}


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server of this test's own, to be hurt."""
    running = start_server(tmp_path / "data")
    yield running
    stop_server(running)


def engine_pid(server: Server) -> int:
    """The one child process of the server that is the engine."""
    pid = server.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if "nestling.engine.worker" in Path(f"/proc/{child}/cmdline").read_text():
            return int(child)
    pytest.fail("the server has no engine process")


def listening_addresses(pid: int) -> list[str]:
    """Local addresses, in the kernel's hexadecimal, on which a process listens."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            sockets.add(str(entry.readlink()))
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


def test_banner_says_which_model_answers(server: Server) -> None:
    """The start banner has the URL, the demo model's name, the key once, and a ready curl line."""
    assert server.url in server.banner
    assert "nestling-nano" in server.banner
    assert "google/gemma-3n-e4b-it" in server.banner
    assert server.key
    assert "curl " in server.banner


def test_probes(server: Server) -> None:
    """Alive and ready."""
    assert httpx.get(f"{server.url}/livez").status_code == 200
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_second_start_keeps_the_key_and_prints_none(tmp_path: Path) -> None:
    """A key is printed on the first start only, and still works after a restart."""
    first = start_server(tmp_path / "data")
    assert stop_server(first) == 0
    second = start_server(tmp_path / "data")
    try:
        assert not second.key
        second.key = first.key
        with second.client() as client:
            assert client.post(URL, json=body("Hello!")).status_code == 201
    finally:
        assert stop_server(second) == 0


def test_keys_act_on_the_next_request(server: Server) -> None:
    """Made, disabled, enabled and deleted on the command line while the server runs."""
    at = ["--data-dir", str(server.data_dir)]

    def run(*args: str) -> str:
        done = subprocess.run(
            nestling("keys", *args, *at), capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    key = run("create", "--name", "laptop")
    assert key.count("\n") == 0

    def status() -> tuple[int, str | None]:
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(server.url + URL, json=body("Hello!"), headers=headers, timeout=30)
        return answer.status_code, answer.json().get("error", {}).get("code")

    assert status() == (201, None)
    run("disable", "laptop")
    assert status() == (401, "api_key_disabled")
    run("enable", "laptop")
    assert status() == (201, None)
    rows = json.loads(run("list", "--json"))
    assert key not in json.dumps(rows)
    assert [row["state"] for row in rows if row["name"] == "laptop"] == ["enabled"]
    run("delete", "laptop")
    assert status()[0] == 401


def test_same_seed_same_answer_under_load(server: Server) -> None:
    """The answer of a seeded request does not depend on what else the server is doing."""
    ask = body("Tell me a short story about a fox.", seed=11, temperature=1.3, max_tokens=60)
    with server.client() as client:
        alone = client.post(URL, json=ask).json()["choices"][0]["message"]["content"]

        def disturb(number: int) -> None:
            client.post(URL, json=body("Tell me a story " * (1 + number), max_tokens=40 + number))

        with ThreadPoolExecutor(12) as pool:
            noise = [pool.submit(disturb, number) for number in range(12)]
            answers = [pool.submit(client.post, URL, json=ask) for _ in range(4)]
            texts = {
                future.result().json()["choices"][0]["message"]["content"] for future in answers
            }
            assert all(future.result() is None for future in noise)
    assert texts == {alone}


def test_a_second_request_is_told_its_cached_tokens(server: Server) -> None:
    """Plain, streamed, by each choice; but not under another key."""
    ask = body("Tell me about owls, foxes, bears, mice and the sea. " * 4, max_tokens=4, n=2)
    at = ["--data-dir", str(server.data_dir)]
    made = subprocess.run(
        nestling("keys", "create", "--name", "other account", *at),
        capture_output=True,
        text=True,
        check=True,
    )

    def cached(client: httpx.Client, **more: object) -> tuple[int, int]:
        """Cached and all tokens of the prompt."""
        text = client.post(URL, json={**ask, **more}).text
        if more:
            text = text.split("\n\n")[-3].removeprefix("data: ")
        usage = json.loads(text)["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]

    with server.client() as client:
        first, num_tokens = cached(client)
        assert first < 16  # at most a block of the chat format, which other tests have asked too
        found = (num_tokens - 1) // 16 * 16
        assert found > 32
        assert cached(client) == (found, num_tokens)
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        assert cached(client, **stream) == (found, num_tokens)
    other = {"Authorization": f"Bearer {made.stdout.strip()}"}
    with httpx.Client(base_url=server.url, headers=other, timeout=60) as client:
        assert cached(client) == (0, num_tokens)
        assert cached(client) == (found, num_tokens)


def test_client_that_goes_away_frees_its_slot(own_server: Server) -> None:
    """An engine of one slot serves the next client although the first hung up mid-answer."""
    request = json.dumps(body("Tell me a story.", max_tokens=2000, logit_bias={})).encode()
    head = (
        f"POST {URL} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {own_server.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(request)}\r\n\r\n"
    )
    port = int(own_server.url.rsplit(":", 1)[1])
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + request)
    with own_server.client() as client:
        start = time.monotonic()
        assert client.post(URL, json=body("Hello!", max_tokens=5)).status_code == 201
        assert time.monotonic() - start < 10


def test_killed_engine_fails_its_requests_and_comes_back(own_server: Server) -> None:
    """kill -9 of the engine: the running stream gets an error frame, the next request an answer."""
    pid = engine_pid(own_server)
    frames: list[str] = []
    # Eight answers, so that one that ends by itself, or early, does not end the stream.
    endless = body("Tell me a story.", stream=True, max_tokens=1500, temperature=2, min_p=0, n=8)
    with own_server.client() as client:
        with client.stream("POST", URL, json=endless) as stream:
            for line in stream.iter_lines():
                if line:
                    frames.append(line)
                if len(frames) == 3:
                    os.kill(pid, signal.SIGKILL)
        assert "engine_restarted" in frames[-1]
        deadline = time.monotonic() + 15
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.post(URL, json=body("Hello!")).status_code == 201
    assert engine_pid(own_server) != pid


def test_sigkilled_server_leaves_no_engine(tmp_path: Path) -> None:
    """The engine dies with its parent, however that ended."""
    server = start_server(tmp_path / "data")
    pid = engine_pid(server)
    server.process.kill()
    server.process.wait()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "the engine outlived the server"
        time.sleep(0.05)


def test_a_log_that_nobody_reads_any_more_stops_nothing(tmp_path: Path) -> None:
    """`nestling serve 2>&1 | head`: requests are answered, and a signal ends the server."""
    port = free_port()
    command = nestling("serve", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        while "curl " not in (line := process.stdout.readline()):
            assert line, "the server ended"
        process.stdout.close()
        try:
            for _ in range(2):
                assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
        finally:
            process.kill()


def test_second_server_on_one_data_dir_is_refused(server: Server) -> None:
    """One line, exit code 2, no traceback."""
    done = subprocess.run(
        nestling("serve", "--port", "0", "--data-dir", str(server.data_dir)),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(server.process.pid) in done.stderr


def test_only_loopback_listens(server: Server) -> None:
    """The server's socket is bound to 127.0.0.1 and the engine has none."""
    port = int(server.url.rsplit(":", 1)[1])
    assert listening_addresses(server.process.pid) == [f"0100007F:{port:04X}"]
    assert listening_addresses(engine_pid(server)) == []
