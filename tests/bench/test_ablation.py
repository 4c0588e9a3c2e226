"""The table of switches: factors say how much better a figure is with the optimisation."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "ablation.py"


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("ablation", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_factors_are_paired_by_round(ablation: ModuleType) -> None:
    """Twice as fast in two rounds of three, whatever the machine did; memory counts downwards."""
    on = [{"prefill tokens/s": rate, "resident MiB": 100.0} for rate in (20.0, 6.0, 10.0)]
    off = [{"prefill tokens/s": rate, "resident MiB": 150.0} for rate in (10.0, 3.0, 2.0)]
    header, base, row = ablation.table(on, {"skip": off})
    assert header == ["switched off", "prefill tokens/s", "resident MiB"]
    assert base == ["none", "10.0", "100.0"]
    assert row == ["skip", "3.0 (2.00x)", "150.0 (1.50x)"]


def test_unknown_switches_are_refused() -> None:
    """In one line, before anything is measured."""
    nano = SCRIPT.parent.parent / "src" / "nestling" / "assets" / "nano"
    argv = [sys.executable, str(SCRIPT), str(nano), "--off", "warp"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "off: known switches: " in done.stderr
    assert done.stderr.count("\n") == 1
