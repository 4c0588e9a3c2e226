"""Threads by default: physical cores, no more than the container has time for."""

import os
from pathlib import Path

import pytest

from nestling.engine.runners import cores
from nestling.native.system import MAX_THREADS
from nestling.settings import Settings


def machine(root: Path, siblings: dict[int, str], name: str = "core_cpus_list") -> Path:
    for cpu, text in siblings.items():
        folder = root / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_threads_of_one_core_count_once(tmp_path: Path, name: str) -> None:
    root = machine(tmp_path, {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}, name)
    assert cores.num_physical_cores({0, 1, 4, 5}, root) == 2
    assert cores.num_physical_cores({0, 4}, root) == 1  # as taskset may narrow it
    assert cores.num_physical_cores({0, 1}, root) == 2


def test_where_nobody_says_each_is_a_core(tmp_path: Path) -> None:
    assert cores.num_physical_cores({0, 1, 2}, tmp_path) == 3


@pytest.mark.parametrize(
    ("files", "shares"),
    [
        ({"a/b/cpu.max": "150000 100000", "a/cpu.max": "max 100000"}, [1.5]),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000", "cpu.max": "1 2"}, [4, 0.5]),
        ({"a/b/cpu.max": "nonsense"}, []),
        ({}, []),
    ],
    ids=str,
)
def test_shares_of_time(tmp_path: Path, files: dict[str, str], shares: list[float]) -> None:
    root = tmp_path / "groups"
    (root / "a" / "b").mkdir(parents=True)
    for name, text in files.items():
        (root / name).write_text(text)
    own = tmp_path / "cgroup"
    own.write_text("3:cpu:/x\n0::/a/b\n")
    assert list(cores._shares_of_time(root, own)) == shares
    assert list(cores._shares_of_time(root, tmp_path / "missing")) == []


@pytest.mark.parametrize(("share", "expected"), [(0.5, 1), (1.9, 1), (1e9, None)])
def test_a_container_s_time_bounds_the_threads(
    monkeypatch: pytest.MonkeyPatch, share: float, expected: int | None
) -> None:
    all_cores = cores.num_physical_cores(os.sched_getaffinity(0))
    monkeypatch.setattr(cores, "_shares_of_time", lambda: [share])
    assert cores.num_usable_cores() == min(all_cores, expected or all_cores)


@pytest.mark.parametrize("has_affinity", [True, False])
def test_a_large_machine_gets_as_many_as_a_pool_takes(
    monkeypatch: pytest.MonkeyPatch, has_affinity: bool
) -> None:
    monkeypatch.setattr(cores, "num_physical_cores", lambda _cpus: 999)
    monkeypatch.setattr(cores, "_shares_of_time", list)
    monkeypatch.setattr(os, "cpu_count", lambda: 999)
    if not has_affinity:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores.num_usable_cores() == MAX_THREADS


def test_the_setting_takes_as_many_threads_as_the_core() -> None:
    schema = Settings.model_json_schema()["properties"]["threads"]
    assert schema["anyOf"][0]["maximum"] == MAX_THREADS
