"""Draws line charts as SVG text, with labelled axes and a grid, for light and dark pages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 72, 28, 56, 52
"""Margins for the labels of the plot, in the units of its size."""

MANY_POWERS = 4
"""With more powers of ten than these, an axis marks nothing between them."""

_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #3b3b3b }
.title { font-size: 15px; font-weight: 600 }
.grid { stroke: #888; stroke-opacity: 0.3 }
.axis { stroke: #888 }
.line { stroke: #1967d2; stroke-width: 2; fill: none }
.dot { fill: #1967d2 }
@media (prefers-color-scheme: dark) {
  text { fill: #d0d0d0 }
  .line { stroke: #8ab4f8 }
  .dot { fill: #8ab4f8 }
}
"""


@dataclass(frozen=True)
class Axis:
    """One axis. With `is_log` equal ratios have equal distances; a linear axis begins at zero."""

    label: str
    is_log: bool = False

    def ticks(self, values: Sequence[float]) -> list[float]:
        """Return the values to mark, from the least or below to the greatest or above.

        They are 1, 2 and 5 times powers of ten. A log axis with many has the powers alone.
        """
        least, most = min(values), max(values)
        if self.is_log:
            powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
            steps = (1, 2, 5) if len(powers) <= MANY_POWERS else (1,)
            marks = [step * 10.0**power for power in powers for step in steps]
            first = max(i for i, mark in enumerate(marks) if mark <= least)
            last = min(i for i, mark in enumerate(marks) if mark >= most)
            return marks[first : max(last, first + 1) + 1]
        rough = most / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        return [step * i for i in range(math.ceil(most / step - 1e-9) + 1)]

    def place(self, value: float, span: tuple[float, float]) -> float:
        """Return the place of a value: 0 at the beginning of the axis, 1 at its end."""
        least, most = (math.log(bound) for bound in span) if self.is_log else span
        return ((math.log(value) if self.is_log else value) - least) / (most - least)


def line_chart(
    title: str, subtitle: str, x_axis: Axis, y_axis: Axis, points: Sequence[tuple[float, float]]
) -> str:
    """Return a chart with one line through the points, a tooltip at each, and every x marked.

    All values are above zero. Raises ValueError if one is not, or if there is no point.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if not points or min(*xs, *ys) <= 0:
        raise ValueError(f"points: expected some, all above zero, got {points}")
    y_ticks = y_axis.ticks(ys)
    x_span = (min(xs), max(xs)) if len(set(xs)) > 1 else (min(xs) / 2, min(xs) * 2)
    y_span = (y_ticks[0], y_ticks[-1])

    def left(x: float) -> float:
        return LEFT + x_axis.place(x, x_span) * (WIDTH - LEFT - RIGHT)

    def top(y: float) -> float:
        return HEIGHT - BOTTOM - y_axis.place(y, y_span) * (HEIGHT - TOP - BOTTOM)

    foot, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        _text(LEFT, 22, title, 'class="title"'),
        _text(LEFT, 40, subtitle),
        _text((LEFT + end) / 2, HEIGHT - 12, x_axis.label, 'text-anchor="middle"'),
    ]
    middle = (TOP + foot) / 2
    turned = f'text-anchor="middle" transform="rotate(-90 16 {middle:.1f})"'
    parts.append(_text(16, middle, y_axis.label, turned))
    for y in y_ticks:
        parts.append(_line("grid", LEFT, top(y), end, top(y)))
        parts.append(_text(LEFT - 8, top(y) + 4, short(y), 'text-anchor="end"'))
    for x in xs:
        parts.append(_line("grid", left(x), TOP, left(x), foot))
        parts.append(_text(left(x), foot + 18, short(x), 'text-anchor="middle"'))
    parts.append(_line("axis", LEFT, foot, end, foot))
    parts.append(_line("axis", LEFT, TOP, LEFT, foot))
    path = " ".join(f"{left(x):.1f},{top(y):.1f}" for x, y in points)
    parts.append(f'<polyline class="line" points="{path}"/>')
    for x, y in points:
        parts.append(
            f'<circle class="dot" cx="{left(x):.1f}" cy="{top(y):.1f}" r="3.5">'
            f"<title>{short(x)}: {y:,.4g}</title></circle>"
        )
    return "\n".join([*parts, "</svg>", ""])


def short(value: float) -> str:
    """Return a short text of a number; multiples of 1,024 are shown as such."""
    if value >= 1024 and value % 1024 == 0:
        return f"{value / 1024:g}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'
