"""Text at the edges: bytes that must be UTF-8, and characters that must not reach a terminal.

Model files, file names, requests and answers may hold sequences that steer a terminal. This is the
one place that turns them into visible escapes.
"""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LEFT_OVER_BYTE = re.compile(r"[\udc80-\udcff]")


class NotUtf8Error(ValueError):
    """Some bytes are not UTF-8; the message says which one and where it stands."""


def escape_controls(text: str) -> str:
    """Return `text` with its control characters escaped; newlines and tabs stay."""
    return _CONTROL.sub(lambda match: _escape(match[0]), text)


def escape_line(text: str) -> str:
    """Return `text` on one line, with everything escaped that has no visible form."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def decode_utf8(data: bytes) -> str:
    """Return the text without a byte order mark; raise `NotUtf8Error` that names the position."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise NotUtf8Error(
            f"it is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} "
            f"(line {line}, byte {column})"
        ) from None


def check_decoded(text: str) -> None:
    """Raise `NotUtf8Error` if Python has read `text` from bytes that are not UTF-8."""
    match = _LEFT_OVER_BYTE.search(text)
    if match is not None:
        byte = ord(match[0]) - 0xDC00
        raise NotUtf8Error(f"it is not UTF-8: byte 0x{byte:02x} after {match.start()} characters")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
