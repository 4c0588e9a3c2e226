"""Finds stop strings in an answer that comes in pieces.

Each answer has a matcher of its own, used by one thread.
"""


class StopMatcher:
    """Lets text through up to the first stop string, which it swallows with all that follows.

    The match that begins first counts. So a match is settled only when no other one that began
    before it can still complete. Until then the longest tail of the text that begins a stop string
    is held back, and nothing more. The time is linear in the text (Knuth-Morris-Pratt).
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        assert all(stops), "an empty stop string"
        self._stops = stops
        self._borders = [_borders(stop) for stop in stops]
        self._matched = [0] * len(stops)  # characters of each stop that the text now ends with
        self._held = ""
        self._end = 0  # characters taken in so far
        self._match_start: int | None = None
        self._is_stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Return the text that may be shown now, and whether a stop string came.

        Nothing follows a stop string.
        """
        if self._is_stopped:
            return "", True
        if not self._stops:
            return text, False
        held_from = self._end - len(self._held)
        self._held += text
        for char in text:
            self._step(char)
            if self._is_settled():
                self._is_stopped = True
                break
        keep_from = self._match_start if self._is_stopped else self._first_live()
        assert keep_from is not None
        cut = min(keep_from, self._end) - held_from
        emitted, self._held = self._held[:cut], "" if self._is_stopped else self._held[cut:]
        return emitted, self._is_stopped

    def flush(self) -> tuple[str, bool]:
        """Return what `push` returns, at the end of the answer: held text is shown or matches."""
        if self._is_stopped:
            return "", True
        rest, self._held = self._held, ""
        if self._match_start is not None:
            self._is_stopped = True
            rest = rest[: self._match_start - (self._end - len(rest))]
        return rest, self._is_stopped

    def _step(self, char: str) -> None:
        self._end += 1
        for i, (stop, borders) in enumerate(zip(self._stops, self._borders, strict=True)):
            matched = self._matched[i]
            while matched and stop[matched] != char:
                matched = borders[matched]
            matched += stop[matched] == char
            if matched == len(stop):
                start = self._end - matched
                self._match_start = (
                    start if self._match_start is None else min(start, self._match_start)
                )
                matched = borders[matched]
            self._matched[i] = matched

    def _first_live(self) -> int:
        """Return where the earliest match begins that is found or may complete, or else the end."""
        live = self._end - max(self._matched)
        return live if self._match_start is None else min(live, self._match_start)

    def _is_settled(self) -> bool:
        return self._match_start is not None and self._first_live() == self._match_start


def _borders(stop: str) -> list[int]:
    """Return for each prefix the length of its longest proper prefix that is its suffix too.

    The list has len + 1 entries.
    """
    borders = [0, 0]
    for end in range(1, len(stop)):
        length = borders[end]
        while length and stop[length] != stop[end]:
            length = borders[length]
        borders.append(length + (stop[length] == stop[end]))
    return borders
