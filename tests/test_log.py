"""Logs are one line an event, and no key gets into them."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

import pytest
import structlog

from nestling.log import configure_logging, get_logger

SECRET = "g3n_live_abcdefgh" + "X" * 38


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    """Leave nothing configured behind."""
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


@pytest.mark.parametrize("output", ["json", "console"])
def test_keys_are_masked(
    capsys: pytest.CaptureFixture[str], output: Literal["json", "console"]
) -> None:
    configure_logging("info", output)
    log = get_logger("test")
    log.info("came", text=f"Bearer {SECRET}", deep={"a": [SECRET]}, authorization="Bearer z9")
    log.error("failed", exc_info=ValueError(SECRET))
    logging.getLogger("library").warning("library said %s", SECRET)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "XX" not in captured.err
    assert "z9" not in captured.err
    assert captured.err.count("g3n_live_abcdefgh[masked]") >= 4


def test_json_is_one_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    get_logger("test").info("a\nb", path="x\n{}")
    get_logger("test").debug("not asked for")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["path"], event["level"]) == ("a\nb", "x\n{}", "info")
    assert event["room"] == "test"


def test_every_room_of_ours_logs_at_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    """Rooms that know no structlog too, in the same form; libraries only from warnings on."""
    configure_logging("info", "json")
    logging.getLogger("nestling.weights.packed_store").info("packing %s", "x")
    logging.getLogger("nestling.engine").debug("not asked for")
    logging.getLogger("library").info("not asked for")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "packing x"
    assert json.loads(line)["level"] == "info"


def test_the_console_shows_no_controls(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "console")
    get_logger("test").info("a\x1b[2J\nb", path="c\x1b\n")
    get_logger("test").error("failed", exc_info=ValueError("d\x1b[2J"))
    logging.getLogger("library").warning("e\x1b[2J")
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert r"a\x1b[2J\nb" in shown
    assert r"ValueError: d\x1b[2J" in shown


def test_console_values_stay_on_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "console")
    get_logger("test").info("request", path='x\n{"level": "error"}')
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_log_that_nobody_reads_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader is gone, as after `nestling serve | head`: requests go on."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as pipe:
        with pytest.raises(BrokenPipeError):
            print("x", file=pipe, flush=True)
        monkeypatch.setattr("sys.stderr", pipe)
        configure_logging("info", "json")
        get_logger("test").info("one")
        get_logger("test").error("two", exc_info=ValueError("three"))
        logging.getLogger("library").warning("four")
        with suppress(OSError):
            pipe.close()
        get_logger("test").info("five")
        logging.getLogger("library").warning("six")
