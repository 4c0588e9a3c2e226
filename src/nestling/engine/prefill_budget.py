"""Tells how many prompt rows a step may have while others wait for their next token.

A running estimate from real steps: what a step of decode requests alone takes, and what each row of
a prompt adds. Clocks are read by the caller.
"""

ROW_MULTIPLE = 16
"""Chunks are cut to multiples of this, the tile of the matrix products, and get no fewer rows."""
_WEIGHT = 0.3
"""Of the newest step in the estimate: follows a growing context, forgives one slow step."""


class PrefillBudget:
    """The estimate of one engine."""

    def __init__(self, max_step_s: float) -> None:
        self._max_step_s = max_step_s
        self._decode_s = 0.0
        """A step without prompt rows; 0 until one was seen."""
        self._row_s: float | None = None

    def observe(self, num_decode_requests: int, num_prompt_rows: int, elapsed_s: float) -> None:
        """Note how long a step took; each decode request has one row of it."""
        if not num_prompt_rows:
            self._decode_s = _mixed(self._decode_s or None, elapsed_s)
            return
        # Prompts take part of every step they are in, however much the other part varies.
        own_s = max(elapsed_s - (self._decode_s if num_decode_requests else 0.0), 0.1 * elapsed_s)
        self._row_s = _mixed(self._row_s, own_s / num_prompt_rows)

    def max_prompt_rows(self) -> int:
        """Rows beside decode requests that keep a step within its time; `ROW_MULTIPLE` at least."""
        if self._row_s is None:
            return ROW_MULTIPLE
        left_s = max(self._max_step_s - self._decode_s, 0.0)
        # A clock too coarse for such a step says nothing against a large one.
        rows = int(left_s / max(self._row_s, 1e-9))
        return max(rows - rows % ROW_MULTIPLE, ROW_MULTIPLE)


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
