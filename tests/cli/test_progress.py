"""The progress bar: what it shows, when, in which width, and that it goes away."""

import io
from types import SimpleNamespace

import pytest

from nestling.cli import model, progress
from nestling.cli.progress import ProgressBar
from nestling.settings import load_settings
from nestling.weights.catalog import embedded_model

MIB = 2**20


class TerminalText(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> TerminalText:
    """Standard error as a terminal; pytest would replace the one of `sys`."""
    stream = TerminalText()
    for module in (progress, model):
        monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list to be changed."""
    now = [1000.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def lines(shown: TerminalText) -> list[str]:
    return shown.getvalue().split("\r\x1b[K")[1:]


def test_the_bar_has_share_amount_and_time_left(shown: TerminalText, clock: list[float]) -> None:
    with ProgressBar("packing a\x1bb") as bar:
        bar.update(0, 3000 * MIB)
        clock[0] += 30
        bar.update(1000 * MIB, 3000 * MIB)
        clock[0] += 0.05
        bar.update(1001 * MIB, 3000 * MIB)  # too soon to be shown
        clock[0] += 60
        bar.update(3000 * MIB, 3000 * MIB)
    assert lines(shown) == [
        r"packing a\x1bb  [........................]    0%  0 of 3,000 MiB",
        r"packing a\x1bb  [########................]   33%  1,000 of 3,000 MiB  1:00 left",
        r"packing a\x1bb  [########################]  100%  3,000 of 3,000 MiB  0:00 left",
        "",
    ]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ("60", "packing x, once   50%  1 of 2 MiB  0:10 left"),
        ("40", " 50%  1 of 2 MiB  0:10 left"),
        ("10", " 50%  1 o"),
    ],
)
def test_a_narrow_terminal_keeps_the_figures(
    shown: TerminalText,
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
    line: str,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    bar = ProgressBar("packing x, once")
    bar.update(0, 2 * MIB)
    clock[0] += 10
    bar.update(MIB, 2 * MIB)
    assert lines(shown)[-1] == line


def test_short_work_shows_nothing(shown: TerminalText, clock: list[float]) -> None:
    with ProgressBar("x", patience_s=0.5) as bar:
        bar.update(1, 10)
        clock[0] += 0.4
        bar.update(9, 10)
    assert shown.getvalue() == ""


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("x") as bar:
        bar.update(1, 2)
    assert capsys.readouterr().err == ""


def test_packing_is_shown_in_place_of_log_lines(
    shown: TerminalText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "packing_bar", lambda name: ProgressBar(f"packing {name}"))
    monkeypatch.setattr(progress, "_LEAST_INTERVAL_S", 0.0)
    with model.open_model(embedded_model().path, load_settings()):
        first, *_, last, nothing = lines(shown)
    assert first.startswith("packing nano  [")
    assert "100%" in last
    assert nothing == ""
