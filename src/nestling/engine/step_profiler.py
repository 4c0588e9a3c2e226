"""Sums the time of the engine's steps by part; owned by the loop, read through `Stats`."""

from time import perf_counter

PARTS = ("schedule", "model", "sample")
"""Choosing and building the batch; the forward pass; choosing tokens and telling of them."""


class StepProfiler:
    """Seconds of each part since the start: `begin` a step, then `end` each part as it is over."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._since = 0.0

    def begin(self) -> None:
        """The first part starts now."""
        self._since = perf_counter()

    def end(self, part: str) -> None:
        """The part that ran until now was this one; the next starts."""
        now = perf_counter()
        self._seconds[part] += now - self._since
        self._since = now

    def seconds(self) -> dict[str, float]:
        """A copy of the sums."""
        return dict(self._seconds)
