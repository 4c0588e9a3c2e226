"""Replies that would not end by themselves, and how many have ended, as /metrics counts them."""

import re
import time
from functools import cache
from typing import Any

import httpx

from nestling.weights.catalog import embedded_model
from nestling.weights.checkpoint import load_checkpoint
from tests.e2e.conftest import Server

WITHIN_S = 10.0


@cache
def no_end_of_turn() -> dict[str, int]:
    """A `logit_bias` under which the embedded model goes on until a limit stops it."""
    vocabulary = load_checkpoint(embedded_model().path).vocabulary
    assert vocabulary is not None
    return {str(token_id): -100 for token_id in vocabulary.eos_token_ids}


def endless() -> dict[str, Any]:
    """Fields of a request whose eight answers run to a limit that is a second away or more."""
    return {"max_tokens": 2000, "n": 8, "logit_bias": no_end_of_turn()}


def replies_ended(server: Server, outcome: str, at_least: int = 0) -> int:
    """How many chat replies have ended so; waits until they are `at_least` so many."""
    pattern = rf'nestling_replies_total{{outcome="{outcome}",route="/v1/chat/completions"}} (\S+)'
    deadline = time.monotonic() + WITHIN_S
    while True:
        found = re.search(pattern, server_metrics(server))
        count = int(float(found[1])) if found else 0
        if count >= at_least:
            return count
        assert time.monotonic() < deadline, f"{count} replies {outcome}, expected {at_least}"
        time.sleep(0.02)


def until_running(server: Server) -> None:
    """Wait until the engine works on something."""
    deadline = time.monotonic() + WITHIN_S
    while not engine_figure(server, "num_running"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def engine_figure(server: Server, name: str) -> int:
    """One of the engine's own figures, such as `num_running`."""
    found = re.search(rf"^nestling_engine_{name} (\S+)", server_metrics(server), re.MULTILINE)
    assert found, name
    return int(float(found[1]))


def server_metrics(server: Server) -> str:
    """What Prometheus would read."""
    return httpx.get(f"{server.url}/metrics").text
