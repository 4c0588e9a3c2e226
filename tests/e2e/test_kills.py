"""kill -9 of the server again and again: the database stays sound and no limit is passed.

`SOAK_KILLS` sets how often; the default fits the default run.
"""

import os
import random
import re
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import Server, nestling, start_server, stop_server

NUM_KILLS = int(os.environ.get("SOAK_KILLS", "20"))
NUM_CLIENTS = 4
THRESHOLD_NANO_USD = 60_000
PRICES = (20, 40)
URL = "/v1/chat/completions"


@dataclass
class Seen:
    """What clients were told: the cost of whole answers by id, and refusals."""

    costs: dict[str, int] = field(default_factory=dict)
    num_refused: int = 0
    problems: list[str] = field(default_factory=list)


def cost_of(usage: dict[str, int]) -> int:
    return PRICES[0] * usage["prompt_tokens"] + PRICES[1] * usage["completion_tokens"]


def ask_until_killed(url: str, key: str, seen: Seen, seed: int) -> None:
    """Send requests of all kinds until the server is gone."""
    rng = random.Random(seed)
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=20) as client:
        while True:
            body = {
                "model": "google/gemma-3n-e4b-it",
                "messages": [{"role": "user", "content": "Tell me a story."}],
                "max_tokens": rng.choice([1, 3, 10, 60]),
                "stream": rng.random() < 0.5,
                "stream_options": {"include_usage": True},
            }
            try:
                with client.stream("POST", URL, json=body) as response:
                    if rng.random() < 0.2:
                        continue  # go away at once
                    text = response.read().decode()
            except httpx.TransportError:
                return
            if response.status_code == 403:
                seen.num_refused += 1
                time.sleep(0.02)
                continue
            usage = re.findall(r'"usage":(\{.*?"completion_tokens":\d+)', text)
            is_whole = text.endswith("data: [DONE]\n\n") or not body["stream"]
            if response.status_code != 201 or (is_whole and len(usage) != 1):
                seen.problems.append(f"{response.status_code}: {text[-300:]}")
            elif is_whole:
                found = dict(re.findall(r'"(\w+_tokens)":(\d+)', usage[0]))
                counts = {name: int(value) for name, value in found.items()}
                seen.costs[response.headers["x-inference-id"]] = cost_of(counts)


def query(data_dir: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(data_dir / "accounts.db", timeout=30)) as database:
        return database.execute(sql).fetchall()


def check_books(data_dir: Path, seen: Seen) -> int:
    """Check that all rows and sums agree; returns what was spent."""
    assert query(data_dir, "PRAGMA integrity_check") == [("ok",)]
    rows = dict(query(data_dir, "SELECT inference_id, nano_usd FROM usage"))
    spent = sum(rows.values())
    assert all(isinstance(cost, int) and cost >= 0 for cost in rows.values())
    assert query(data_dir, "SELECT sum(nano_usd) FROM key_spend") == [(spent if rows else None,)]
    assert spent <= THRESHOLD_NANO_USD
    for inference_id, cost in seen.costs.items():
        assert rows[inference_id] == cost, "an answer that was sent whole is charged exactly"
    return spent


def run_and_kill(server: Server, key: str, seen: Seen, seed: int) -> None:
    clients = [
        threading.Thread(target=ask_until_killed, args=(server.url, key, seen, seed * 100 + i))
        for i in range(NUM_CLIENTS)
    ]
    for client in clients:
        client.start()
    time.sleep(random.Random(seed).uniform(0.05, 0.6))
    server.process.kill()
    server.process.wait()
    for client in clients:
        client.join(30)
        assert not client.is_alive()


def test_kills(tmp_path: Path) -> None:
    data_dir, seen = tmp_path / "data", Seen()
    limit = f"{THRESHOLD_NANO_USD / 1e9:.9f}"
    command = nestling("keys", "create", "--name", "k", "--limit", limit)
    made = subprocess.run(
        [*command, "--data-dir", str(data_dir)], capture_output=True, text=True, check=True
    )
    key = made.stdout.strip()
    for number in range(NUM_KILLS):
        run_and_kill(start_server(data_dir), key, seen, number)
        assert seen.problems == []
    server = start_server(data_dir)
    try:
        assert query(data_dir, "SELECT count(*) FROM reservation") == [(0,)]
        spent = check_books(data_dir, seen)
        assert len(seen.costs) >= NUM_KILLS
        headers = {"Authorization": f"Bearer {key}"}
        balance = httpx.get(f"{server.url}/v2/billing", headers=headers).json()
        assert round(balance["current_balance"] * 1e9) == THRESHOLD_NANO_USD - spent
    finally:
        assert stop_server(server) == 0
