"""Text at the edges: what may reach a terminal, and bytes that are not UTF-8."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.plain_text import (
    NotUtf8Error,
    check_decoded,
    decode_utf8,
    escape_controls,
    escape_line,
)


def test_controls_of_an_answer_become_visible() -> None:
    assert escape_controls("a\x1b[2J\r\n\tb\x9b1m\x7f\x00") == r"a\x1b[2J\r" + "\n\tb" + (
        r"\x9b1m\x7f\x00"
    )
    assert escape_controls("é 你 🦊 العربية\n") == "é 你 🦊 العربية\n"


def test_a_name_stays_on_its_line() -> None:
    assert escape_line("a\nb\t\u202ec\u2028\udce9 é 你") == r"a\nb\t\u202ec\u2028\udce9 é 你"


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    shown = escape_controls(text)
    assert not any(c < " " or "\x7f" <= c < "\xa0" for c in shown if c not in "\n\t")
    assert escape_line(text).isprintable()


def test_a_byte_order_mark_is_no_text() -> None:
    assert decode_utf8(b"\xef\xbb\xbfa") == "a"
    assert decode_utf8("é".encode()) == "é"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff", "byte 0xff at offset 0 (line 1, byte 1)"),
        (b"ab\ncd\xe9f", "byte 0xe9 at offset 5 (line 2, byte 3)"),
        ("é\n".encode() + b"\xc3", "byte 0xc3 at offset 3 (line 2, byte 1)"),
    ],
)
def test_the_byte_at_fault_is_named(data: bytes, said: str) -> None:
    with pytest.raises(NotUtf8Error) as caught:
        decode_utf8(data)
    assert str(caught.value) == f"it is not UTF-8: {said}"


def test_text_of_broken_bytes_is_found() -> None:
    check_decoded("é 🦊")
    with pytest.raises(NotUtf8Error, match="byte 0xe9 after 3 characters"):
        check_decoded(b"abc\xe9".decode("utf-8", "surrogateescape"))
