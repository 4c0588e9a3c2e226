"""A model's packed weights are kept in a folder, written once and used while they are its own."""

import fcntl
import logging
import mmap
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nestling.engine.config import EngineConfig
from nestling.engine.runners import native as native_runner
from nestling.engine.runners.load import load_runner
from nestling.engine.runners.native import NativeRunner
from nestling.native.system import ThreadPool
from nestling.native.weights import MappedFile
from nestling.weights import packed_file, packed_store
from nestling.weights.checkpoint import load_checkpoint
from nestling.weights.mapped_file import model_files
from nestling.weights.packed_file import (
    Identity,
    write_packed,
)
from nestling.weights.packed_store import load_weights
from nestling.weights.packing import PackPlan
from tests.weights.tiny_files import VOCAB, random_weights, write_folder, write_gguf

POOL = ThreadPool(1)
TOKENS = np.arange(20, dtype=np.int32) * 31 % VOCAB


def write(path: Path, matrices: dict[str, Any], identity: Identity) -> Path:
    with path.open("wb", buffering=0) as file:
        write_packed(file.fileno(), identity, matrices.items())
    return path


# --- the folder ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_store, "LEAST_BYTES", 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", random_weights(3), "Q8_0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "packed"


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one name for every packing."""
    found: list[str] = []
    original = PackPlan.pack

    def counted(self: PackPlan) -> Iterator[Any]:
        found.append(self.dtype)
        yield from original(self)

    monkeypatch.setattr(PackPlan, "pack", counted)
    return found


def logits(model: Path, folder: Path | None, **changes: Any) -> np.ndarray[Any, Any]:
    packed_dir = None if folder is None else str(folder)
    config = EngineConfig(
        model=str(model), num_threads=1, num_blocks=8, packed_dir=packed_dir, **changes
    )
    return load_runner(config).score(TOKENS)


def packed_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.packed"))


@pytest.mark.parametrize("dtype", ["auto", "float32", "float16", "bfloat16", "q8", "q4"])
@pytest.mark.parametrize("off", [(), ("sparse_feed_forward",)])
def test_mapped_weights_give_the_same_logits(
    tmp_path: Path, folder: Path, packs: list[str], dtype: str, off: tuple[str, ...]
) -> None:
    model = write_folder(tmp_path / "m", random_weights(3))
    in_memory = logits(model, None, dtype=dtype, switches_off=off)
    first = logits(model, folder, dtype=dtype, switches_off=off)
    assert len(packs) == 2
    again = logits(model, folder, dtype=dtype, switches_off=off)
    assert len(packs) == 2
    np.testing.assert_array_equal(first, in_memory)
    np.testing.assert_array_equal(again, in_memory)
    assert np.ptp(in_memory) > 0.1


def test_files_and_folder_are_private(model: Path, folder: Path) -> None:
    logits(model, folder)
    (path,) = packed_files(folder)
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert path.name.startswith("tiny-")


def test_a_small_model_is_not_kept(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_store, "LEAST_BYTES", 256 << 20)
    logits(model, folder)
    assert not folder.exists()


def test_no_folder_keeps_nothing(model: Path, tmp_path: Path, packs: list[str]) -> None:
    logits(model, None)
    logits(model, None)
    assert len(packs) == 2
    assert list(tmp_path.iterdir()) == [model]


def _touch(model: Path) -> None:
    os.utime(model, ns=(1, 1))


def _replace_with_the_same_times(model: Path) -> None:
    status = model.stat()
    other = write_gguf(model.with_suffix(".new"), random_weights(4), "Q8_0")
    assert other.stat().st_size == status.st_size
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(model)


def _enlarge(model: Path) -> None:
    write_gguf(model, random_weights(4), "F32")


@pytest.mark.parametrize("change", [_touch, _replace_with_the_same_times, _enlarge])
def test_a_changed_model_is_packed_anew_into_the_same_file(
    model: Path, folder: Path, packs: list[str], change: Callable[[Path], None]
) -> None:
    logits(model, folder)
    before = packed_files(folder)
    change(model)
    expected = logits(model, None)
    np.testing.assert_array_equal(logits(model, folder), expected)
    assert packed_files(folder) == before
    assert len(packs) == 3
    np.testing.assert_array_equal(logits(model, folder), expected)
    assert len(packs) == 3


def test_another_layout_version_is_packed_anew(
    model: Path, folder: Path, packs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits(model, folder)
    (path,) = packed_files(folder)
    identity = Identity(model_files(model), "auto", sparse_feed_forward=True, layout_version=0)
    write(path, dict(plan_of(model).pack()), identity)
    del packs[:]
    logits(model, folder)
    assert len(packs) == 1


def plan_of(model: Path) -> PackPlan:
    checkpoint = load_checkpoint(model)
    return PackPlan(checkpoint.config, checkpoint.tensors, POOL)


def test_each_setting_has_a_file_of_its_own(model: Path, folder: Path, packs: list[str]) -> None:
    for _ in range(2):
        logits(model, folder)
        logits(model, folder, dtype="float32")
        logits(model, folder, switches_off=("sparse_feed_forward",))
    assert len(packed_files(folder)) == 3
    assert len(packs) == 3


@pytest.mark.parametrize("content", [b"", b"NSTLPK01", b"\0" * 100])
def test_a_damaged_file_is_replaced(
    model: Path, folder: Path, packs: list[str], content: bytes
) -> None:
    expected = logits(model, folder)
    (path,) = packed_files(folder)
    path.write_bytes(content)
    np.testing.assert_array_equal(logits(model, folder), expected)
    np.testing.assert_array_equal(logits(model, folder), expected)
    assert len(packs) == 2


def test_files_of_models_that_are_gone_are_removed(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    logits(model, folder)
    (old,) = packed_files(folder)
    foreign = folder / "foreign.packed"
    foreign.write_bytes(b"of another version")
    other = model.rename(tmp_path / "other.gguf")
    logits(other, folder)
    assert not old.exists()
    assert foreign.exists()
    assert len(packed_files(folder)) == 2


def test_a_model_that_changes_while_it_is_packed_is_not_kept(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = PackPlan.pack

    def disturbed(self: PackPlan) -> Iterator[Any]:
        for index, item in enumerate(original(self)):
            if index == 3:
                os.utime(model, ns=(5, 5))
            yield item

    monkeypatch.setattr(PackPlan, "pack", disturbed)
    expected = logits(model, None)
    np.testing.assert_array_equal(logits(model, folder), expected)
    assert "changed while it was packed" in caplog.text
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_a_full_disk_is_a_warning(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    expected = logits(model, None)
    np.testing.assert_array_equal(logits(model, folder), expected)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "must be free on the disk, got 1073741824" in warning.message
    assert not packed_files(folder)


def test_a_disk_that_fills_up_while_writing_is_a_warning(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    expected = logits(model, None)
    monkeypatch.setattr(os, "pwrite", full)
    np.testing.assert_array_equal(logits(model, folder), expected)
    assert "No space left on device" in caplog.text
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_a_folder_that_cannot_be_made_is_a_warning(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    expected = logits(model, None)
    np.testing.assert_array_equal(logits(model, tmp_path / "file" / "packed"), expected)
    assert caplog.text.count("packed weights are not kept: Not a directory") == 1


def test_a_disk_whose_files_cannot_be_mapped_is_a_warning(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = logits(model, None)
    monkeypatch.setattr(packed_file, "MappedFile", lambda _: MappedFile(-1))
    np.testing.assert_array_equal(logits(model, folder), expected)
    assert caplog.text.count("packed weights are not kept: mapped file: ") == 1


def test_a_kept_file_is_read_from_a_read_only_folder(
    model: Path, folder: Path, packs: list[str]
) -> None:
    logits(model, folder)
    folder.chmod(0o500)
    try:
        logits(model, folder)
    finally:
        folder.chmod(0o700)
    assert len(packs) == 1


# --- several processes ---------------------------------------------------------------------------

LOADER = """
    import hashlib, sys, time
    import numpy as np
    from nestling.engine.config import EngineConfig
    from nestling.engine.runners.load import load_runner
    from nestling.weights import packed_store
    from nestling.weights.packing import EMBEDDING_TABLES, PackPlan
    packed_store.LEAST_BYTES = 0
    original = PackPlan.pack
    def slow(self):
        print("packing", flush=True)
        for item in original(self):
            time.sleep(float(sys.argv[3]))
            yield item
    PackPlan.pack = slow
    config = EngineConfig(model=sys.argv[1], packed_dir=sys.argv[2], num_threads=1, num_blocks=8)
    logits = load_runner(config).score(np.arange(9, dtype=np.int32))
    print(hashlib.sha256(logits.tobytes()).hexdigest(), flush=True)
"""


def start(model: Path, folder: Path, pause_s: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", textwrap.dedent(LOADER), str(model), str(folder), str(pause_s)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_packs(model: Path, folder: Path) -> None:
    processes = [start(model, folder, 0.01) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(len(output) for output in outputs) == [1, 2]
    assert outputs[0][-1] == outputs[1][-1]
    assert len(packed_files(folder)) == 1


def test_a_killed_writer_leaves_only_what_the_next_removes(
    model: Path, folder: Path, packs: list[str]
) -> None:
    process = start(model, folder, 5)
    assert process.stdout is not None
    assert process.stdout.readline() == "packing\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(list(folder.glob("*.tmp"))) == 1
    assert not packed_files(folder)
    logits(model, folder)
    assert not list(folder.glob("*.tmp"))
    assert len(packed_files(folder)) == 1
    assert len(packs) == 1


def test_who_waits_too_long_packs_in_memory(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packed_store, "LOCK_TIMEOUT_S", 0.2)
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        logits(model, folder)
    assert "another process has been packing" in caplog.text
    assert not packed_files(folder)


def test_threads_of_one_process_share_one_file(model: Path, folder: Path, packs: list[str]) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(logits(model, folder))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found[0], found[1])
    assert len(packs) == 1


def test_a_replaced_file_stays_readable(model: Path, folder: Path) -> None:
    checkpoint = load_checkpoint(model)
    config = EngineConfig(model=str(model), num_threads=1, num_blocks=8, packed_dir=str(folder))
    runner = NativeRunner(checkpoint, config)
    before = runner.score(TOKENS)
    (path,) = packed_files(folder)
    path.unlink()
    np.testing.assert_array_equal(runner.score(TOKENS), before)


def _num_resident_pages(part: np.ndarray[Any, Any]) -> int:
    """Of the whole pages within an array, those that this process holds: bit 63 of its page map."""
    size = mmap.PAGESIZE
    begin = -(-part.ctypes.data // size)
    end = (part.ctypes.data + part.nbytes) // size
    with Path("/proc/self/pagemap").open("rb") as pages:
        pages.seek(8 * begin)
        entries = np.frombuffer(pages.read(8 * (end - begin)), np.uint64)
    assert len(entries) > 4
    return int(np.count_nonzero(entries >> np.uint64(63)))


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="needs Linux")
def test_gathered_rows_of_the_tables_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pages at the step that reaches the bound, none before it."""
    monkeypatch.setattr(native_runner, "_RELEASE_ROWS", 3 * len(TOKENS))
    model = write_gguf(tmp_path / "m.gguf", random_weights(3), "F32")
    runner = load_runner(EngineConfig(model=str(model), num_threads=1, num_blocks=8))
    assert isinstance(runner, native_runner.NativeRunner)
    first = runner.score(TOKENS)
    for num_scored in range(2, 7):
        np.testing.assert_array_equal(runner.score(TOKENS), first)
        held = [_num_resident_pages(table) for table in runner._tables]
        assert (held == [0, 0]) == (num_scored % 3 == 0), (num_scored, held)


def test_a_model_without_files_of_its_own_is_packed_in_memory(model: Path, folder: Path) -> None:
    assert model_files(model.with_name("none.gguf")) == ()
    plan = plan_of(model)
    weights = load_weights(plan, model, model_files(model), None)
    assert set(weights) == set(plan.assemble(dict(plan.pack())))
    assert not folder.exists()


@pytest.mark.parametrize("is_kept", [True, False])
def test_packing_reports_bytes_up_to_the_total(model: Path, folder: Path, is_kept: bool) -> None:
    told: list[tuple[int, int]] = []
    plan, where = plan_of(model), folder if is_kept else None
    load_weights(plan, model, model_files(model), where, lambda *bytes_: told.append(bytes_))
    assert told == sorted(told)
    assert {total for _, total in told} == {plan.packed_bytes()}
    assert told[-1] == (plan.packed_bytes(), plan.packed_bytes())
    assert len(told) > (1 if is_kept else len(plan.matrices()))
    told.clear()
    load_weights(plan, model, model_files(model), where, lambda *bytes_: told.append(bytes_))
    assert (told == []) == is_kept, "a mapped file needs no packing"
