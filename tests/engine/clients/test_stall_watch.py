"""When an engine counts as hung, on a clock of the test's own."""

from nestling.engine.clients.stall_watch import StallWatch


class Watched:
    """A watch that is asked as often as it wants to be."""

    def __init__(self, timeout_s: float = 10.0) -> None:
        self.now_s = 100.0
        self.watch = StallWatch(timeout_s, self.now_s)
        self.progress = 0
        self.has_work = True

    def look(self) -> bool:
        return self.watch.is_stalled(self.now_s, self.progress, has_work=self.has_work)

    def run(self, seconds: float, *, moves_every_s: float | None = None) -> float | None:
        """Let time pass; return after how many seconds it was stalled, None if never."""
        begin_s = moved_s = self.now_s
        while self.now_s - begin_s < seconds:
            self.now_s += self.watch.interval_s
            if moves_every_s is not None and self.now_s - moved_s >= moves_every_s:
                self.progress += 1
                moved_s = self.now_s
            if self.look():
                return self.now_s - begin_s
        return None


def test_work_without_progress_is_a_hang_after_the_timeout() -> None:
    stalled_s = Watched().run(60)
    assert stalled_s is not None
    assert 10 <= stalled_s <= 11


def test_progress_within_the_timeout_is_none() -> None:
    assert Watched().run(60, moves_every_s=9) is None


def test_a_load_may_take_minutes_while_it_reports() -> None:
    watched = Watched(timeout_s=600)
    assert watched.run(6000, moves_every_s=60) is None
    assert watched.run(6000) is not None


def test_without_work_nothing_hangs_and_the_time_begins_with_the_work() -> None:
    watched = Watched()
    watched.has_work = False
    assert watched.run(3600) is None
    watched.has_work = True
    stalled_s = watched.run(60)
    assert stalled_s is not None
    assert 9 <= stalled_s <= 11


def test_a_late_look_begins_anew() -> None:
    """Both were stopped, as in a frozen container: the engine gets its whole time again."""
    watched = Watched()
    assert watched.run(9) is None
    watched.now_s += 3600
    assert not watched.look()
    stalled_s = watched.run(60)
    assert stalled_s is not None
    assert 10 <= stalled_s <= 11
