"""Streamed text: whole characters only, and in sum what decoding at once gives."""

from hypothesis import given
from hypothesis import strategies as st

from nestling.chat.detokenizer import IncrementalDetokenizer
from nestling.chat.tokenizer import Tokenizer


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """What each id gives, and the flush."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


def byte_ids(tokenizer: Tokenizer, raw: bytes) -> list[int]:
    """The byte pieces that spell `raw`."""
    ids = {tokenizer.token_text(i): i for i in range(tokenizer.vocab_size)}
    first = next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"\x00")
    assert "a" in ids
    return [first + byte for byte in raw]


@given(data=st.data())
def test_stream_equals_decode_for_any_ids(tokenizer: Tokenizer, data: st.DataObject) -> None:
    # Byte pieces are a small part of the vocabulary, so draw bytes too, and the bytes of text.
    raw = st.binary(min_size=1, max_size=4) | st.text(max_size=3).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )
    any_id = st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=3)
    part = raw.map(lambda some: byte_ids(tokenizer, some)) | any_id
    ids = [token_id for ids in data.draw(st.lists(part, max_size=12)) for token_id in ids]
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_character_comes_out_whole(tokenizer: Tokenizer) -> None:
    ids = byte_ids(tokenizer, "é🤖".encode())
    assert stream(tokenizer, ids) == ["", "é", "", "", "", "🤖", ""]


def test_half_a_character_at_the_end_is_shown_as_such(tokenizer: Tokenizer) -> None:
    assert stream(tokenizer, byte_ids(tokenizer, b"a\xf0\x9f")) == ["a", "", "", "\ufffd"]


def test_a_broken_character_does_not_swallow_the_next(tokenizer: Tokenizer) -> None:
    ids = [*byte_ids(tokenizer, b"\xf0\x9f"), *tokenizer.encode("a")]
    assert stream(tokenizer, ids) == ["", "", "\ufffda", ""]


def test_control_tokens_show_nothing(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("a"), tokenizer.end_of_turn_id]
    assert stream(tokenizer, ids) == ["a", "", ""]


def test_flush_begins_anew(tokenizer: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer)
    half, rest = byte_ids(tokenizer, "é".encode())
    assert detokenizer.push(half) == ""
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.push(rest) == "\ufffd"
    assert detokenizer.flush() == ""
