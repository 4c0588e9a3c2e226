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

    def __init__(self, label: str, *, patience_s: float = 0.0) -> None:
        self._label = escape_line(label)
        self._patience_s = patience_s
        """Work that ends sooner shows nothing."""
        self._begun_s: float | None = None
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
        self._begun_s = self._begun_s or now_s
        elapsed_s = now_s - self._begun_s
        is_due = elapsed_s >= self._patience_s and now_s - self._told_s >= _LEAST_INTERVAL_S
        if not is_due or not sys.stderr.isatty():
            return
        self._told_s = now_s
        share = min(1.0, num_done / max(1, num_total))
        num_full = int(share * _BAR_WIDTH)
        bar = "[" + "#" * num_full + "." * (_BAR_WIDTH - num_full) + "]"
        amount = f"{num_done / 2**20:,.0f} of {num_total / 2**20:,.0f} MiB"
        parts = [self._label, bar, f"{share:4.0%}", amount, _time_left(share, elapsed_s)]
        self._write(_fitted([part for part in parts if part], get_terminal_size().columns - 1))
        self._is_shown = True

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _fitted(parts: list[str], width: int) -> str:
    """Return the parts on one line; a narrow one goes without the bar, then without the name."""
    for left_out in ((), (1,), (0, 1)):
        line = "  ".join(part for i, part in enumerate(parts) if i not in left_out)
        if len(line) <= width:
            break
    return line[: max(0, width)]


def _time_left(share: float, elapsed_s: float) -> str:
    if share == 0 or elapsed_s < _LEAST_ELAPSED_S:
        return ""
    minutes, seconds = divmod(round(elapsed_s * (1 - share) / share), 60)
    return f"{minutes}:{seconds:02d} left"


def packing_bar(model: str) -> ProgressBar:
    """Return the bar of a model's packing, which a large model needs once."""
    return ProgressBar(f"packing {model}, once", patience_s=0.5)
