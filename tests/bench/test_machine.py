"""Memory and commit of this very process."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nestling.bench import machine
from nestling.bench.machine import commit, peak_resident_bytes, resident_bytes


def test_memory_follows_what_is_used() -> None:
    """64 MiB more come and go; the peak remembers them."""
    size = 64 << 20
    before = resident_bytes()
    block = np.ones(size, np.uint8)
    during = resident_bytes()
    assert during - before > size * 0.9
    del block
    assert resident_bytes() < during - size * 0.9
    assert peak_resident_bytes() > during - (1 << 20)  # the kernel counts in coarse steps


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the package's own checkout, marked when files differ; None elsewhere."""
    package = tmp_path / "src" / "nestling"
    package.mkdir(parents=True)
    monkeypatch.setattr(machine, "_PACKAGE", package)
    assert commit() is None
    (package / "a.py").write_text("a = 1\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@localhost", "-C", str(tmp_path)]
    for args in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *args], check=True)
    clean = commit()
    assert clean is not None
    assert len(clean) == 12
    (package / "a.py").write_text("a = 2\n")
    assert commit() == f"{clean}-dirty"


def test_commit_is_unknown_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a missing program nor a broken checkout stops a measurement."""
    package = tmp_path / "src" / "nestling"
    package.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(machine, "_PACKAGE", package)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() is None


def test_memory_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no /proc, the peak that it counts stands for both."""
    of_proc = peak_resident_bytes()
    monkeypatch.setattr(machine, "_STATUS", tmp_path / "none")
    assert peak_resident_bytes() == pytest.approx(of_proc, rel=0.1)
    assert resident_bytes() == peak_resident_bytes()


def test_a_status_without_the_figure_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, not taken for 0."""
    (tmp_path / "status").write_text("Name:\tpython\n")
    monkeypatch.setattr(machine, "_STATUS", tmp_path / "status")
    with pytest.raises(OSError, match="has no VmRSS"):
        resident_bytes()
