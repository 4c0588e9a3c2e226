"""Keeps packed weights: one file for a model and its settings in a folder of their own.

A file is used while the model file it was made of is unchanged, else packed anew under the same
name. One process packs at a time; the others wait for its file. Whatever stands in the way of the
folder costs a warning and the time of packing in memory, never the start.
"""

import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from nestling.weights.mapped_file import SourceFile, model_files
from nestling.weights.packed_file import (
    Identity,
    PackedFileError,
    open_packed,
    read_sources,
    write_packed,
)
from nestling.weights.packing import Packed, PackPlan
from nestling.weights.progress import Progress, no_progress

logger = logging.getLogger(__name__)

LEAST_BYTES = 256 << 20
"""Smaller models are packed in memory in a fraction of a second."""
SPARE_BYTES = 1 << 30
"""What must stay free on the disk."""
LOCK_TIMEOUT_S = 180.0
_SUFFIX, _TEMPORARY = ".packed", ".tmp"
_LOCK_NAME = "lock"
_PROGRESS_S = 2.0


def load_weights(
    plan: PackPlan,
    model: Path,
    sources: tuple[SourceFile, ...],
    folder: Path | None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return the weights of `native.gemma3n.Gemma3n`, mapped from `folder` or packed in memory.

    `sources` are `model_files(model)` from before the model was opened; without them nothing is
    kept. `progress` hears of packing only: mapping a file takes no time.
    """
    if folder is not None and sources and plan.packed_bytes() >= LEAST_BYTES:
        matrices = _Store(plan, model, sources, folder, progress).matrices()
        if matrices is not None:
            return plan.assemble(matrices)
    return plan.assemble(_pack_in_memory(plan, progress))


def _pack_in_memory(plan: PackPlan, progress: Progress) -> dict[str, Packed]:
    num_total = plan.packed_bytes()
    matrices: dict[str, Packed] = {}
    num_done = 0
    for name, packed in plan.pack():
        matrices[name] = packed
        num_done += packed.nbytes
        progress(min(num_done, num_total), num_total)
    progress(num_total, num_total)
    return matrices


def show_notices() -> None:
    """Print what somebody who waits should know (a model is packed) as plain lines on stderr."""
    room = logging.getLogger(__package__)
    if not room.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        room.addHandler(handler)
        room.setLevel(logging.INFO)
        room.propagate = False


class _CannotKeepError(Exception):
    """Packed weights cannot be kept, for a reason that is no OSError."""


@dataclass(frozen=True)
class _Store:
    plan: PackPlan
    model: Path
    sources: tuple[SourceFile, ...]
    folder: Path
    progress: Progress

    @property
    def identity(self) -> Identity:
        return Identity(self.sources, self.plan.dtype, self.plan.sparse_feed_forward)

    @property
    def path(self) -> Path:
        """The same for every state of the model file, so that a new one replaces the old."""
        what = (str(self.model.absolute()), self.plan.dtype, self.plan.sparse_feed_forward)
        digest = blake2b(repr(what).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self.model.name.removesuffix(".gguf"))[:80]
        return self.folder / f"{name}-{digest}{_SUFFIX}"

    def matrices(self) -> dict[str, Packed] | None:
        """None: to be packed in memory; the log says why."""
        try:
            found = self._open()
            return self._pack() if found is None else found
        except OSError as error:
            reason = error.strerror or str(error)
        except _CannotKeepError as error:
            reason = str(error)
        logger.warning("%s: packed weights are not kept: %s", self.folder, reason)
        return None

    def _open(self) -> dict[str, Packed] | None:
        try:
            return open_packed(self.path, self.identity, self.plan.matrices())
        except FileNotFoundError:
            return None
        except PackedFileError as error:
            logger.info("%s %s", self.path, error)
            return None

    def _pack(self) -> dict[str, Packed] | None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.folder / _LOCK_NAME):
            found = self._open()  # another process may have packed it meanwhile
            if found is not None:
                return found
            for left in self.folder.glob(f"*{_TEMPORARY}"):  # of a process that was killed
                left.unlink(missing_ok=True)
            needed = self.plan.packed_bytes()
            free = shutil.disk_usage(self.folder).free
            if free < needed + SPARE_BYTES:
                raise _CannotKeepError(
                    f"{needed + SPARE_BYTES} bytes must be free on the disk, got {free}"
                )
            self._write(needed)
            self._remove_orphans()
            return self._open()

    def _write(self, num_bytes: int) -> None:
        logger.info(
            "packing %s for this machine, once (%.1f GB) ...", self.model.name, num_bytes / 1e9
        )
        temporary = self.path.with_suffix(_TEMPORARY)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_packed(descriptor, self.identity, self.plan.pack(), self._reporter(num_bytes))
            self._check_unchanged()
            temporary.replace(self.path)
            self.progress(num_bytes, num_bytes)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def _check_unchanged(self) -> None:
        if model_files(self.model) != self.sources:
            raise _CannotKeepError("the model file changed while it was packed")

    def _reporter(self, num_total: int) -> Callable[[int], None]:
        """Return what tells `progress`, and now and then the log, how many bytes are written."""
        told_s = time.monotonic()

        def report(num_written: int) -> None:
            nonlocal told_s
            num_done = min(num_written, num_total)
            self.progress(num_done, num_total)
            if time.monotonic() - told_s > _PROGRESS_S:
                told_s = time.monotonic()
                logger.info("packed %.1f of %.1f GB", num_done / 1e9, num_total / 1e9)

        return report

    def _remove_orphans(self) -> None:
        """Files whose model is gone."""
        for path in self.folder.glob(f"*{_SUFFIX}"):
            try:
                is_orphan = not all(Path(source.path).exists() for source in read_sources(path))
            except PackedFileError:  # perhaps of another version of Nestling
                continue
            if is_orphan:
                logger.info("%s is removed: its model is gone", path)
                path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one process at a time, freed by the kernel when it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline_s = time.monotonic() + LOCK_TIMEOUT_S
        is_waiting = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise _CannotKeepError(
                        f"another process has been packing for {LOCK_TIMEOUT_S:.0f} s"
                    ) from None
                if not is_waiting:
                    logger.info("waiting for another process that packs weights")
                is_waiting = True
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)
