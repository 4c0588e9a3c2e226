"""Charts are well-formed, hold every point where it belongs, and follow the page's colours."""

import math
import xml.etree.ElementTree as ET

import pytest

from nestling.bench.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, line_chart, short

SVG = "{http://www.w3.org/2000/svg}"
POINTS = [(1.0, 10.0), (2.0, 15.0), (4.0, 31.0)]


def dots(chart: str) -> list[tuple[float, float]]:
    """Centres of the points."""
    root = ET.fromstring(chart)  # noqa: S314 - our own text
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{SVG}circle")]


@pytest.mark.parametrize("is_log_y", [False, True])
def test_points_lie_where_they_belong(is_log_y: bool) -> None:
    """Doubling x is one step on a log axis; a linear y is measured from zero."""
    chart = line_chart("a", "b", Axis("x", is_log=True), Axis("y", is_log=is_log_y), POINTS)
    (x1, y1), (x2, y2), (x3, y3) = dots(chart)
    assert (x1, x3) == (LEFT, WIDTH - RIGHT)
    assert x2 == pytest.approx((x1 + x3) / 2, abs=0.1)
    foot = HEIGHT - BOTTOM
    if is_log_y:  # from 10 to 50
        assert y1 == foot
        assert (foot - y2) / (foot - TOP) == pytest.approx(math.log(1.5) / math.log(5), abs=0.01)
        assert (foot - y3) / (foot - TOP) == pytest.approx(math.log(3.1) / math.log(5), abs=0.01)
    else:
        assert (foot - y3) / (foot - y1) == pytest.approx(3.1, abs=0.02)
        assert y3 >= TOP


def test_texts_are_escaped_and_colours_follow_the_page() -> None:
    """Labels, title and tooltips as they were given."""
    chart = line_chart("a < b & c", "sub", Axis("x <"), Axis("y >"), POINTS)
    root = ET.fromstring(chart)  # noqa: S314 - our own text
    shown = [node.text for node in root.iter(f"{SVG}text")]
    assert {"a < b & c", "sub", "x <", "y >"} <= set(shown)
    assert root.findtext(f".//{SVG}circle/{SVG}title") == "1: 10"
    assert "prefers-color-scheme: dark" in chart


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([3.0], [0, 1, 2, 3]),
        ([10.0, 31.0], [0, 10, 20, 30, 40]),
        ([0.07], [0, 0.02, 0.04, 0.06, 0.08]),
        ([5356.0], [0, 2000, 4000, 6000]),
    ],
)
def test_ticks_are_round_and_reach_beyond(values: list[float], ticks: list[float]) -> None:
    assert Axis("y").ticks(values) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.03, 0.17], [0.02, 0.05, 0.1, 0.2]),
        ([10.0, 10.0], [10, 20]),
        ([0.05, 1200.0], [0.01, 0.1, 1, 10, 100, 1000, 10000]),
    ],
)
def test_ticks_of_a_log_axis(values: list[float], ticks: list[float]) -> None:
    assert Axis("y", is_log=True).ticks(values) == pytest.approx(ticks)


@pytest.mark.parametrize("points", [[], [(0.0, 1.0)], [(1.0, -1.0)]])
def test_what_cannot_be_drawn_is_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="points"):
        line_chart("a", "b", Axis("x"), Axis("y"), points)


def test_one_point_is_a_chart() -> None:
    axis = Axis("x", is_log=True)
    assert len(dots(line_chart("a", "b", axis, axis, [(4.0, 4.0)]))) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (128, "128"), (1024, "1k"), (32768, "32k"), (2047, "2,047"), (0.02, "0.02")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text
