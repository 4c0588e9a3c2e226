"""Stop strings against a matcher that sees the whole text at once."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.chat.stop import StopMatcher

LETTERS = st.text("ab", max_size=24)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4).map(tuple)


def first_match(text: str, stops: tuple[str, ...]) -> int | None:
    """Where the earliest match in `text` begins."""
    return min((text.find(stop) for stop in stops if stop in text), default=None)


def first_live(text: str, stops: tuple[str, ...]) -> int:
    """Where the longest tail begins that is a proper prefix of some stop; the end if none."""
    return next(
        i
        for i in range(len(text) + 1)
        if any(stop.startswith(text[i:]) and len(stop) > len(text) - i for stop in stops)
        or i == len(text)
    )


@settings(max_examples=500)
@given(chunks=st.lists(LETTERS, max_size=8), stops=STOPS)
def test_equals_brute_force_for_any_chunks(chunks: list[str], stops: tuple[str, ...]) -> None:
    matcher = StopMatcher(stops)
    emitted, seen, is_stopped = "", "", False
    for chunk in chunks:
        text, is_stopped = matcher.push(chunk)
        emitted, seen = emitted + text, seen + chunk
        match, live = first_match(seen, stops), first_live(seen, stops)
        if is_stopped:
            break
        # Shown at once: all but what a match has or may still get.
        assert emitted == seen[: live if match is None else min(match, live)]
        assert match is None or live < match
    rest, is_stopped_at_end = matcher.flush()
    match = first_match("".join(chunks), stops)
    assert emitted + rest == "".join(chunks)[:match]
    assert (is_stopped or is_stopped_at_end) == (match is not None)


@pytest.mark.parametrize(
    ("chunks", "stops", "expected", "is_stopped"),
    [
        (["The en", "d. is"], ("end.",), ["The ", ""], True),
        (["one two", " three"], ("two three",), ["one ", ""], True),
        (["xab", "y"], ("abc",), ["x", "aby"], False),
        (["xabc", "e"], ("abcd", "bc"), ["x", "a"], True),
        (["xabc", "d"], ("abcd", "bc"), ["x", ""], True),
        (["aab"], ("ab",), ["a"], True),
        (["\n", "\n"], ("\n\n",), ["", ""], True),
        (["anything"], (), ["anything"], False),
    ],
)
def test_examples(
    chunks: list[str], stops: tuple[str, ...], expected: list[str], is_stopped: bool
) -> None:
    matcher = StopMatcher(stops)
    results = [matcher.push(chunk) for chunk in chunks]
    assert [text for text, _ in results] == expected
    assert results[-1][1] is is_stopped


def test_flush_shows_what_was_held_back() -> None:
    matcher = StopMatcher(("abc",))
    assert matcher.push("xab") == ("x", False)
    assert matcher.flush() == ("ab", False)


def test_flush_settles_a_match_that_waited_for_an_earlier_one() -> None:
    matcher = StopMatcher(("abcd", "bc"))
    assert matcher.push("xabc") == ("x", False)
    assert matcher.flush() == ("a", True)


def test_nothing_comes_after_a_stop() -> None:
    matcher = StopMatcher(("b",))
    assert matcher.push("abc") == ("a", True)
    assert matcher.push("more") == ("", True)
    assert matcher.flush() == ("", True)


def test_repeats_take_linear_time() -> None:
    matcher = StopMatcher(("a" * 10_000 + "b",))
    start = time.perf_counter()
    assert all(matcher.push("aaaa")[1] is False for _ in range(5_000))
    assert time.perf_counter() - start < 5  # quadratic matching would take minutes
