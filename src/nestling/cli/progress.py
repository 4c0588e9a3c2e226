"""Shows progress and the time left on one line of stderr, if stderr is a terminal."""

import sys
from shutil import get_terminal_size
from time import monotonic
from typing import Self

from nestling.plain_text import escape_line

_BAR_WIDTH = 24
_LEAST_INTERVAL_S = 0.1
_LEAST_ELAPSED_S = 1.0
"""Before that no time left is told, as it would only be a guess."""


class ProgressBar:
    """Progress of one piece of work that is named by `label`; its end removes the bar."""

    def __init__(self, label: str) -> None:
        self._label = escape_line(label)
        self._begun_s = monotonic()
        self._told_s = 0.0
        self._is_shown = False

    def __enter__(self) -> Self:
        """Show nothing before the first `update`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away, so that what comes next begins on an empty line."""
        if self._is_shown:
            self._write("")
        self._is_shown = False

    def update(self, num_done: int, num_total: int) -> None:
        """Show how many bytes are done."""
        now_s = monotonic()
        if not sys.stderr.isatty() or now_s - self._told_s < _LEAST_INTERVAL_S:
            return
        self._told_s = now_s
        share = min(1.0, num_done / max(1, num_total))
        num_full = int(share * _BAR_WIDTH)
        bar = "#" * num_full + "." * (_BAR_WIDTH - num_full)
        amount = f"{num_done / 2**20:,.0f} of {num_total / 2**20:,.0f} MiB"
        parts = [self._label, f"[{bar}] {share:4.0%}", amount, self._time_left(share, now_s)]
        width = get_terminal_size().columns - 1
        if len("  ".join(filter(None, parts))) > width:
            parts[1] = f"{share:4.0%}"
        self._write("  ".join(filter(None, parts))[:width])
        self._is_shown = True

    def _time_left(self, share: float, now_s: float) -> str:
        elapsed_s = now_s - self._begun_s
        if share == 0 or elapsed_s < _LEAST_ELAPSED_S:
            return ""
        minutes, seconds = divmod(round(elapsed_s * (1 - share) / share), 60)
        return f"{minutes}:{seconds:02d} left"

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
