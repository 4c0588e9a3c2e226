"""Structured logs on stderr: one line an event, as JSON or for a terminal.

Keys are masked here, whatever the caller passes. The text of requests and answers is never given to
a logger, so there is nothing to filter for it.
"""

import io
import logging
import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog

from nestling.plain_text import escape_controls, escape_line

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]
_SECRET = re.compile(r"(g3n_live_[0-9A-Za-z]{0,8})[0-9A-Za-z]+")
_SECRET_NAMES = frozenset({"authorization", "key", "secret", "pepper", "password", "cookie"})
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Output(io.TextIOBase):
    """A stream that forgets what cannot be written: no reader, a full disk, a closed stream.

    An event is no reason for a request to fail, or for a signal to be missed.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, as far as the caller can tell."""
        with suppress(OSError):
            if not self._stream.closed:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if that is possible."""
        with suppress(OSError):
            if not self._stream.closed:
                self._stream.flush()


class _StderrHandler(logging.StreamHandler[TextIO]):
    """A type of its own, so that it is found again when logging is configured anew."""


def configure_logging(
    level: LogLevel = "info",
    output: LogFormat = "auto",
) -> None:
    """Send our events and those of libraries (warnings and worse) to stderr in one form."""
    is_console = output == "console" or (output == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_secrets,
        *([_escape_for_terminal] if is_console else []),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            repr_native_str=True,
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the pretty one shows locals
        )
        if is_console
        else structlog.processors.JSONRenderer(ensure_ascii=True)
    )
    stderr = cast("TextIO", _Output(sys.stderr))
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(stderr),
        cache_logger_on_first_use=False,
    )
    handler = _StderrHandler(stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [h for h in root.handlers if not isinstance(h, _StderrHandler)]
    root.addHandler(handler)
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    logging.getLogger("nestling").setLevel(_LEVELS[level])


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger whose events carry the room's name as `room`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(room=name)
    return logger


def _escape_for_terminal(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Escape controls where the renderer writes text as it is: the event and the traceback."""
    event["event"] = escape_line(str(event["event"]))
    if "exception" in event:
        event["exception"] = escape_controls(event["exception"])
    return event


def mask_secrets(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace API keys in any value, and whole values that go by a secret's name."""
    for name, value in event.items():
        if name.lower() in _SECRET_NAMES:
            event[name] = "[masked]"
        elif isinstance(value, (str, bytes, list, tuple, dict, set, Exception)):
            text = value if isinstance(value, str) else repr(value)
            if "g3n_live_" in text:
                event[name] = _SECRET.sub(r"\1[masked]", text)
    return event
