"""The data directory: private to its owner, used by one server at a time.

Command-line tools work in it while a server runs; only servers exclude each other.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from nestling.errors import SettingsError

LOCK_FILE_NAME = "server.lock"


def prepare_data_dir(path: Path) -> Path:
    """Create the directory (mode 0700) if there is none; `SettingsError` if it is of no use."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next((p for p in (path, *path.parents) if p.exists() and not p.is_dir()), path)
        raise SettingsError(f"data_dir: expected a folder, but {file} is a file") from None
    except OSError as error:
        raise SettingsError(f"data_dir: cannot create {path}: {error.strerror}") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise SettingsError(f"data_dir: expected a folder that can be written, but got {path}")
    return path


class ServerLock:
    """Held by the one server of a data directory; the kernel frees it when the process ends."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_FILE_NAME
        self._fd: int | None = None

    def __enter__(self) -> Self:
        """Take the lock; raises `SettingsError` naming the process that has it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise SettingsError(
                f"data_dir: {self._path.parent} is in use by another server (process {pid}); "
                "stop it, or give this one a data_dir of its own"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._fd = fd
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lock up. The file stays: removing it would let two servers lock two files."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
