"""Token buckets on a clock of the test's own."""

import pytest

from nestling.accounts import rate_limits
from nestling.accounts.rate_limits import RateLimiter
from nestling.errors import RateLimitError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_minute_is_saved_up_and_refilled_steadily(clock: Clock) -> None:
    limiter = RateLimiter(60, clock)
    for left in range(59, -1, -1):
        assert limiter.take("a").remaining == left
    with pytest.raises(RateLimitError) as caught:
        limiter.take("a")
    assert caught.value.retry_after_s == 1
    assert limiter.take("b").remaining == 59
    clock.now += 1
    assert limiter.take("a").reset_s == pytest.approx(60)
    clock.now += 3600
    assert limiter.state("a").remaining == 60


def test_a_refusal_takes_nothing_and_names_the_wait(clock: Clock) -> None:
    limiter = RateLimiter(600, clock)
    limiter.take("a", 590)
    with pytest.raises(
        RateLimitError, match=r"Too Many Requests.*600 a minute, 110 .* 10 are left"
    ):
        limiter.take("a", 110)
    assert limiter.state("a").remaining == 10
    clock.now += 10
    assert limiter.take("a", 110).remaining == 0


def test_what_is_given_back_can_be_taken_again_and_no_more(clock: Clock) -> None:
    limiter = RateLimiter(100, clock)
    limiter.take("a", 100)
    limiter.give_back("a", 40)
    assert limiter.take("a", 40).remaining == 0
    limiter.give_back("a", 1000)
    assert limiter.state("a").remaining == 100


def test_full_buckets_are_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_BUCKETS", 10)
    limiter = RateLimiter(60, clock)
    for number in range(9):
        limiter.take(str(number), 30)
    clock.now += 60
    limiter.take("busy", 30)
    limiter.take("next")
    assert len(limiter._buckets) == 2
    assert limiter.state("busy").remaining == 30
