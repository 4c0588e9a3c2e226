"""The measuring processes: what they cannot do is told, whatever happens to them."""

import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from nestling.bench.figures import PhaseTimes, Refusal
from nestling.bench.plan import BenchPlan
from nestling.bench.report import profile_rows
from nestling.bench.runs import run_bench
from nestling.errors import EngineError, InvalidRequestError

PLAN = BenchPlan(model="/no/such/model", threads=1, runs=1)


def test_a_refusal_keeps_its_words_and_kind() -> None:
    """A bad model is bad input here too."""
    with pytest.raises(InvalidRequestError, match="/no/such/model"):
        run_bench(PLAN, with_profile=False, on_progress=lambda _text: None)


def test_a_dead_child_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends without a word, killed perhaps."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    told: list[str] = []
    with pytest.raises(EngineError, match="exit code 1"):
        run_bench(PLAN, with_profile=False, on_progress=told.append)
    assert told == ["run 1 of 1: start"]


def test_profile_rows_are_milliseconds_a_step() -> None:
    """A part that a phase lacks took no time there."""
    header, rows = profile_rows(
        {
            "prefill": PhaseTimes(2, 31, 0, 3 << 20, {"model": 0.5}),
            "prefix hit": PhaseTimes(4, 2, 48, 1 << 20, {"model": 0.1, "sample": 0.002}),
        }
    )
    assert header == ("phase", "steps", "tokens", "cached", "read MiB", "model ms", "sample ms")
    assert rows == [
        ("prefill", "2", "31", "0", "1.5", "250.000", "0.000"),
        ("prefix hit", "4", "2", "48", "0.2", "25.000", "0.500"),
    ]


def test_a_failure_keeps_its_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What went wrong in the child for another reason than bad input is an engine's error."""
    child = tmp_path / "child"
    refusal = msgspec.json.encode(Refusal("no memory", EngineError.exit_code)).decode()
    child.write_text(f"#!/bin/sh\necho '{refusal}'\nexit {EngineError.exit_code}\n")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    with pytest.raises(EngineError, match="no memory"):
        run_bench(PLAN, with_profile=False, on_progress=lambda _text: None)
