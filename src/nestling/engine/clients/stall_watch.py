"""Decides when an engine hangs: it has work, and its progress has not moved for too long.

Clocks are read by the caller.
"""

_MAX_INTERVAL_S = 0.5
_MAX_DELAY_S = 1.0


class StallWatch:
    """The judgement of one engine process; ask it every `interval_s`."""

    def __init__(self, timeout_s: float, now_s: float) -> None:
        self._timeout_s = timeout_s
        self.interval_s = min(timeout_s / 20, _MAX_INTERVAL_S)
        self._max_gap_s = min(self.interval_s + _MAX_DELAY_S, timeout_s / 4)
        """If two looks lie further apart, this process was stopped too, and perhaps the engine."""
        self._looked_s = now_s
        self._moved_s = now_s
        self._progress: int | None = None

    def stalled_s(self, now_s: float) -> float:
        """Return for how long it has had work and made no progress."""
        return now_s - self._moved_s

    def is_stalled(self, now_s: float, progress: int, *, has_work: bool) -> bool:
        """Look once; a look that comes late begins the watch anew."""
        is_late = now_s - self._looked_s > self._max_gap_s
        self._looked_s = now_s
        if is_late or not has_work or progress != self._progress:
            self._moved_s = now_s
        self._progress = progress
        return self.stalled_s(now_s) >= self._timeout_s
