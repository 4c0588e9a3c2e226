"""`nestling bench` as a user types it, on the embedded model and short runs."""

import json
import subprocess
from pathlib import Path

import pytest

from nestling.native.system import instruction_set
from nestling.weights.catalog import embedded_model
from tests.cli.conftest import Call, run

SHORT = ("--threads", "2", "--prompt", "24", "--generate", "3", "--batch", "1,3", "--runs", "2")
MODEL_BYTES = (embedded_model().path / "model.safetensors").stat().st_size
RATES = ("prefill_tokens_per_s", "read_bandwidth_bytes_per_s")
SECONDS = ("first_token_s", "load_s", "prefix_hit_first_token_s")
BYTES = ("resident_bytes", "peak_resident_bytes", "weight_bytes_per_token")
FACTS = ("instruction_set", "threads", "commit")


def test_json_has_every_figure() -> None:
    """Exactly the promised keys; figures that can be, and fit each other."""
    done = run("bench", "--model", "nestling-nano", *SHORT, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    data = json.loads(done.stdout)
    assert set(data) == {*RATES, *SECONDS, *BYTES, *FACTS, "decode_tokens_per_s"}
    assert set(data["decode_tokens_per_s"]) == {"1", "3"}
    assert all(data[name] > 0 for name in (*RATES, *SECONDS, *BYTES))
    assert all(rate > 0 for rate in data["decode_tokens_per_s"].values())
    assert data["load_s"] < data["first_token_s"] < 60
    assert MODEL_BYTES / 4 < data["weight_bytes_per_token"] < MODEL_BYTES * 2
    assert data["weight_bytes_per_token"] < data["resident_bytes"] <= data["peak_resident_bytes"]
    assert data["peak_resident_bytes"] < 1 << 30  # the bandwidth buffer is not in it
    assert data["instruction_set"] == instruction_set()
    assert data["threads"] == 2
    root = Path(__file__).parent.parent.parent
    commit = ["git", "rev-parse", "--short=12", "HEAD"]
    head = subprocess.run(commit, cwd=root, capture_output=True, text=True).stdout.strip()
    assert (data["commit"] or "").removesuffix("-dirty") == head


def test_table_profile_and_curves(tmp_path: Path) -> None:
    """For people: every figure with its unit, the parts of a step by phase, charts."""
    done = run("bench", *SHORT, "--runs", "1", "--profile", "--curves", str(tmp_path))
    assert done.returncode == 0, done.stderr
    names = ("decode", "context", "first-token", "memory")
    charts = {f"speed-nestling-nano-{name}.svg" for name in names}
    assert {path.name for path in tmp_path.iterdir()} == charts
    shown = done.stdout.decode()
    for text in ("prefill, 24 tokens", "decode, batch of 3", "GB/s", "MiB", "MODEL MS"):
        assert text in shown
    rows = [line.split("  ") for line in shown.splitlines()]
    assert [row[0] for row in rows[-4:]] == ["prefill", "decode 1", "decode 3", "prefix hit"]
    profile = json.loads(run("bench", *SHORT, "--runs", "1", "--profile", "--json").stdout)[
        "profile"
    ]
    assert profile["decode 3"]["num_steps"] == 3
    assert profile["decode 3"]["num_tokens"] == 9
    assert profile["prefix hit"]["num_cached_tokens"] == 1024


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--batch", "1,x"), "batch: expected a whole number, got 'x'"),
        (("--prompt", "5000"), "prompt: expected 1 to 2047, got 5000"),
        (("--curves", "no/folder"), "curves: expected a folder, got 'no/folder'"),
        (("--off", "warp"), "off: known switches: "),
        (("--model", "no-such-model"), "no-such-model"),
    ],
    ids=str,
)
def test_bad_arguments(call: Call, args: tuple[str, ...], message: str) -> None:
    """Exit code 2 and one line that names the option, what fits and what came."""
    done = call("bench", *args)
    assert (done.exit_code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
