"""Opens the standard streams of a command so that no state of them ends in a traceback.

A character that the encoding lacks is written as an escape. Output that cannot be written raises
`OutputError` once. A failing stderr is ignored, since there is nowhere left to say so.
"""

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any

from nestling.errors import NestlingError


class OutputError(NestlingError):
    """Standard output cannot be written: the disk is full, nobody reads the pipe, it is closed."""

    code = "output_error"

    def __init__(self, error: OSError) -> None:
        reason = "it is closed" if isinstance(error, _ClosedError) else error.strerror
        super().__init__(f"standard output cannot be written: {reason}")
        self.is_broken_pipe = isinstance(error, BrokenPipeError)


class _ClosedError(OSError):
    """The command was started without this stream."""


def open_streams() -> None:
    """Replace the standard streams; call it before anything is opened or printed.

    A file that the program opens later must not get the number of a closed stream: what libraries
    print to that number would end up in the file.
    """
    closed = [number for number in range(3) if not _is_open(number)]
    for number in closed:
        opened = os.open(os.devnull, os.O_RDWR)
        assert opened == number
        os.set_inheritable(opened, True)
    sys.stdin = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8", errors="surrogateescape"
    )
    sys.stdout = _text_stream(_Stdout(is_closed=1 in closed), sys.stdout)
    sys.stderr = _text_stream(_Stderr(2, "w", closefd=False), sys.stderr)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _text_stream(raw: io.FileIO, old: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(old, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=raw.isatty() or isinstance(raw, _Stderr),
    )


class _Stdout(io.FileIO):
    """Descriptor 1; raises `OutputError` at the first failure and drops what comes after it."""

    def __init__(self, *, is_closed: bool) -> None:
        super().__init__(1, "w", closefd=False)
        self._is_closed = is_closed
        self._has_failed = False

    def write(self, data: Any, /) -> int:
        """Write some of `data` and return how many bytes."""
        if self._has_failed:
            return len(data)
        try:
            if self._is_closed:
                raise _ClosedError
            while (count := super().write(data)) is None:  # the terminal or pipe does not block
                select.select([], [self], [])
        except OSError as error:
            self._has_failed = True
            raise OutputError(error) from None
        return count


class _Stderr(io.FileIO):
    """Descriptor 2; what cannot be written is dropped."""

    def write(self, data: Any, /) -> int:
        """Write `data` if that is possible."""
        with suppress(OSError):
            return super().write(data) or len(data)
        return len(data)
