"""Tells the memory that this process uses and the commit that it runs."""

import resource
import subprocess
import sys
from pathlib import Path

import nestling

_STATUS = Path("/proc/self/status")
_PACKAGE = Path(nestling.__file__).resolve().parent


def resident_bytes() -> int:
    """Return the memory of this process in RAM now, pages of mapped files included."""
    return _status_bytes("VmRSS") if _STATUS.exists() else peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return the most resident memory that this process ever had."""
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise OSError(f"{_STATUS} has no {key}")


def commit() -> str | None:
    """Return the commit of the checkout that runs, "-dirty" if changed; None without one."""
    root = _PACKAGE.parent.parent
    if not (root / ".git").exists() or root / "src" / "nestling" != _PACKAGE:
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
