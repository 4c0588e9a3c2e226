"""Prompt rows beside running streams: as many as the step's time takes, never none."""

import pytest

from nestling.engine.prefill_budget import PrefillBudget


def test_nothing_known_is_the_least() -> None:
    assert PrefillBudget(0.4).max_prompt_rows() == 16


@pytest.mark.parametrize(
    ("row_s", "streams_s", "rows"),
    [(0.001, 0.0, 400), (0.001, 0.1, 288), (0.004, 0.1, 64), (0.1, 0.1, 16), (0.001, 0.9, 16)],
)
def test_rows_fill_what_streams_leave_in_multiples_of_16(
    row_s: float, streams_s: float, rows: int
) -> None:
    timer = PrefillBudget(0.4 + 1e-6)
    if streams_s:
        timer.observe(4, 0, streams_s)
    timer.observe(0, 512, 512 * row_s)
    assert timer.max_prompt_rows() == rows


def test_the_estimate_settles_on_a_machine_and_follows_it() -> None:
    """Whatever was believed at first, a mixed step soon takes what it may and hardly more."""
    timer = PrefillBudget(0.4)
    timer.observe(0, 512, 20.0)  # the first step read the weights from disk
    for row_s in (0.002, 0.004, 0.0005):
        for _ in range(40):
            timer.observe(3, 0, 0.1)
            num_rows = timer.max_prompt_rows()
            elapsed_s = 0.1 + num_rows * row_s
            timer.observe(3, num_rows, elapsed_s)
        assert 0.4 - 16 * row_s < elapsed_s < 0.401


def test_a_clock_that_stands_still_allows_any_number() -> None:
    timer = PrefillBudget(0.4)
    timer.observe(0, 16, 0.0)
    assert timer.max_prompt_rows() > 1_000_000
