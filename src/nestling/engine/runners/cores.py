"""Tells how many threads serve a forward pass best: one a physical core that this process may use.

A second thread on a core shares its multipliers, and both wait for the same memory; a thread beyond
the share of time that a container is given only makes the others wait for it.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from nestling.native.system import MAX_THREADS

_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def num_usable_cores() -> int:
    """Return the number, between 1 and the most threads that a pool takes."""
    if hasattr(os, "sched_getaffinity"):
        num_cores = num_physical_cores(os.sched_getaffinity(0))
    else:
        num_cores = os.cpu_count() or 1
    return max(1, min([MAX_THREADS, num_cores, *(int(share) for share in _shares_of_time())]))


def num_physical_cores(cpus: Iterable[int], root: Path = _CPUS) -> int:
    """Return how many cores these processors are threads of; where nobody says, each is one."""
    return len({_siblings(cpu, root) for cpu in cpus})


def _siblings(cpu: int, root: Path) -> str:
    topology = root / f"cpu{cpu}" / "topology"
    for name in ("core_cpus_list", "thread_siblings_list"):  # since Linux 5.3; before
        try:
            return (topology / name).read_text().strip()
        except OSError:
            continue
    return str(cpu)


def _shares_of_time(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> Iterator[float]:
    """Processors' worth of time that this control group (version 2) and those above it get."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        hierarchy, _, path = line.split(":", 2)
        if hierarchy != "0":
            continue
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(root):
                yield from _share(group / "cpu.max")


def _share(file: Path) -> Iterator[float]:
    try:
        quota, period = file.read_text().split()
        if quota != "max":
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return
