"""The comparison with llama.cpp, against stand-ins that print what its tools print."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

NANO = Path(__file__).parent.parent.parent / "src" / "nestling" / "assets" / "nano"
SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "vs_llamacpp.py"
PREFILL = '[{"avg_ts": 20.0}]'
DECODE = 'noise\n{"pl": 1, "speed_tg": 10.0}\n{"pl": 2, "speed_tg": 15.0}\n'


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder of programs with llama.cpp's names; they refuse a call without its model."""
    said = {"llama-bench": PREFILL, "llama-batched-bench": DECODE, "llama-completion": "token"}
    for name, text in said.items():
        tool = tmp_path / name
        tool.write_text(
            f"#!{sys.executable}\nimport sys\nassert 'nano' in sys.argv[2]\n"
            f"print({text!r} if '-lm' in sys.argv else '')\n"
        )
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def compare(model: Path, tools: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the script with one short round."""
    short = ("--rounds", "1", "--prompt", "20", "--generate", "3", "--batch", "1,2")
    argv = [sys.executable, str(SCRIPT), str(model), "--llama-bin", str(tools), *short, *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120)


def test_ratios_and_verdicts(tools: Path) -> None:
    """Every row, and ratios that are the quotients of its figures."""
    done = compare(NANO, tools, "--json", "--lock", str(tools / "lock"))
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    theirs, ours = data["llama_cpp"][0], data["nestling"][0]
    rows = {row["what"]: row for row in data["rows"]}
    assert (theirs["prefill"], theirs["decode 1"], theirs["decode 2"]) == (20, 10, 15)
    assert rows["prefill 20, tokens/s"]["ratio"] == pytest.approx(ours["prefill"] / 20)
    assert rows["decode 2, tokens/s"]["ratio"] == pytest.approx(ours["decode 2"] / 15)
    assert rows["decode 1, tokens/s"]["verdict"] == "aim reached"
    assert rows["resident at 4,096 tokens, GiB"]["verdict"] == "aim reached"
    first = rows["first start, with packing if not yet packed, s"]
    assert float(first["nestling"]) == pytest.approx(data["nestling_first_start_s"], abs=0.01)
    assert 0 < data["nestling_first_start_s"] < 60
    assert len(rows) == 8
    judged = [row["what"] for row in data["rows"] if row["verdict"]]
    assert set(rows) - set(judged) == {"decode 2, tokens/s", first["what"]}


def test_a_tool_that_fails_is_told(tools: Path) -> None:
    """With what it said."""
    other = tools / "other"
    other.symlink_to(NANO)
    done = compare(other, tools)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr


def test_no_model(tools: Path) -> None:
    done = compare(tools / "no.gguf", tools)
    assert done.returncode == 1
    assert "there is no such file" in done.stderr
