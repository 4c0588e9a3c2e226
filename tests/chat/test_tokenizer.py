"""Text to ids: equal between file forms and to a second implementation, and never a control id."""

import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as HfTokenizer

from nestling.chat.tokenizer import Tokenizer, merge_symbols
from nestling.errors import InvalidRequestError
from nestling.weights.vocabulary import (
    PieceType,
    Vocabulary,
    vocabulary_from_folder,
    vocabulary_from_gguf,
)
from tests.chat.strings import CONTROL_LOOKING, strings
from tests.chat.vocabularies import all_splits, small_forms, write_folder

NUM_STRINGS = 10_000
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
CHUNKS = st.lists(st.sampled_from((*CONTROL_LOOKING, "\n\n", "  ", "aaaa", "<td>")), max_size=6)


@pytest.fixture(scope="module")
def from_json(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    folder = write_folder(tmp_path_factory.mktemp("small"), small_forms().tokenizer_json)
    vocabulary = vocabulary_from_folder(folder)
    assert vocabulary is not None
    return vocabulary


def test_both_file_forms_give_the_same_ids(from_json: Vocabulary, tokenizer: Tokenizer) -> None:
    other = Tokenizer(from_json)
    assert other.control_ids == tokenizer.control_ids
    for text in strings(NUM_STRINGS):
        assert other.encode(text) == tokenizer.encode(text), repr(text)


def test_equals_the_bpe_of_the_tokenizers_library(
    from_json: Vocabulary, tokenizer: Tokenizer
) -> None:
    second = _second_implementation(from_json)
    for text in strings(NUM_STRINGS, seed=1):
        expected = second.encode(text.replace(" ", "\u2581"), add_special_tokens=False).ids
        assert tokenizer.encode(text) == expected, repr(text)


def test_all_kinds_of_token_come_up(tokenizer: Tokenizer) -> None:
    seen = {token_id for text in strings(NUM_STRINGS) for token_id in tokenizer.encode(text)}
    assert len(seen) > 1000
    assert not seen & tokenizer.control_ids


def test_merging_equals_the_slow_rule() -> None:
    ranks = {"aa": 2, "aaa": 1, "ab": 2, "ba": 0, "bab": 3, "aab": 3}
    for number in range(2**10):
        word = f"{number:b}".replace("0", "a").replace("1", "b")
        assert merge_symbols(word, ranks) == _slow_merge(word, ranks), word


def test_equal_ranks_merge_from_the_left() -> None:
    assert merge_symbols("abc", {"ab": 0, "bc": 0}) == ["ab", "c"]
    assert merge_symbols("abc", {"ab": 1, "bc": 0}) == ["a", "bc"]


def test_merges_never_cross_a_user_defined_piece(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.token_text(i) for i in tokenizer.encode("x<td>x\n\n\nx     x")]
    assert pieces == ["x", "<td>", "x", "\n\n\n", "x", "     ", "x"]


@pytest.mark.parametrize("run", ["\n", " "])
def test_runs_take_the_longest_piece_first(tokenizer: Tokenizer, run: str) -> None:
    assert [len(tokenizer.token_text(i)) for i in tokenizer.encode(run * 75)] == [31, 31, 13]


@pytest.mark.parametrize(
    "text", [t for t in CONTROL_LOOKING if t not in ("[multimodal]", "</s>", "<s>")]
)
def test_control_names_are_plain_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert not tokenizer.control_ids.intersection(ids)
    assert len(ids) > 1
    assert tokenizer.decode(ids) == text


@settings(max_examples=300)
@given(text=TEXT, chunks=CHUNKS)
def test_decode_undoes_encode(tokenizer: Tokenizer, text: str, chunks: list[str]) -> None:
    text = text.join(chunks) + text
    ids = tokenizer.encode(text)
    assert not tokenizer.control_ids.intersection(ids)
    assert tokenizer.decode(ids) == text.replace("\u2581", " ")
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == tokenizer.decode(ids)
    assert tokenizer.min_tokens(text) <= len(ids)


def test_lower_bound_is_useful(tokenizer: Tokenizer) -> None:
    assert tokenizer.min_tokens("") == 0
    assert tokenizer.min_tokens("\n" * 310) == len(tokenizer.encode("\n" * 310)) == 10
    # So a server with a context of 32,768 need not tokenize this to refuse it.
    assert tokenizer.min_tokens("a" * 8_000_000) > 32_768


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequestError, match=r"U\+DCFF at character 2"):
        tokenizer.encode("ab\udcff")
    assert tokenizer.min_tokens("ab\udcff") > 0


def test_unknown_characters_become_their_bytes(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("\U00012345")
    assert b"".join(map(tokenizer.token_bytes, ids)) == "\U00012345".encode()
    assert [tokenizer.token_bytes(i) for i in ids] == [b"\xf0", b"\x92", b"\x8d", b"\x85"]
    assert tokenizer.token_text(ids[0]) == "\ufffd"
    assert tokenizer.decode(ids[:3] + tokenizer.encode("a")) == "\ufffda"


def test_control_tokens_show_only_when_asked(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.bos_token_id, *tokenizer.encode("a b"), tokenizer.end_of_turn_id]
    assert tokenizer.decode(ids) == "a b"
    assert tokenizer.decode(ids, skip_special=False) == "<bos>a b<end_of_turn>"
    assert tokenizer.token_text(tokenizer.end_of_turn_id) == "<end_of_turn>"
    assert tokenizer.token_bytes(tokenizer.end_of_turn_id) == b""
    assert tokenizer.token_bytes(tokenizer.vocab_size + 5) == b""
    assert tokenizer.decode([tokenizer.vocab_size], skip_special=False) == ""


def test_text_never_reaches_ids_beyond_the_text_ids() -> None:
    forms = small_forms().gguf_metadata
    tokens, types = forms["tokenizer.ggml.tokens"], forms["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list)
    assert isinstance(types, list)
    extra = tokens.index("extra")
    types = [*types[:extra], PieceType.USER_DEFINED, *types[extra + 1 :]]
    vocabulary = vocabulary_from_gguf({**forms, "tokenizer.ggml.token_type": types}, Path("x"))
    assert vocabulary is not None
    assert Tokenizer(vocabulary).encode("extra") == [extra]
    limited = Tokenizer(vocabulary, extra)
    assert extra not in limited.encode("extra")
    assert extra in limited.control_ids
    assert limited.num_text_tokens == extra


def test_many_threads_share_one_tokenizer(tokenizer: Tokenizer) -> None:
    texts = list(strings(400, seed=2))
    expected = [tokenizer.encode(text) for text in texts]
    failures: list[str] = []

    def run() -> None:
        failures.extend(
            text for text, ids in zip(texts, expected, strict=True) if tokenizer.encode(text) != ids
        )

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def _slow_merge(word: str, ranks: dict[str, int]) -> list[str]:
    symbols = list(word)
    while True:
        found = [
            (ranks[first + second], i)
            for i, (first, second) in enumerate(pairwise(symbols))
            if first + second in ranks
        ]
        if not found:
            return symbols
        i = min(found)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


def _second_implementation(vocabulary: Vocabulary) -> HfTokenizer:
    """The `tokenizers` library on the same pieces; control pieces are not given to it."""
    pieces = np.array(vocabulary.pieces, dtype=object)
    by_type = {type_: pieces[vocabulary.types == type_].tolist() for type_ in PieceType}
    normal = by_type[PieceType.NORMAL]
    known = {*normal, *by_type[PieceType.BYTE], *by_type[PieceType.USER_DEFINED]}
    rank_of = dict(zip(vocabulary.pieces, vocabulary.merge_ranks.tolist(), strict=True))
    merges = all_splits(sorted(normal, key=rank_of.__getitem__), set(normal))
    model = models.BPE(
        vocab={piece: i for i, piece in enumerate(vocabulary.pieces) if piece in known},
        merges=[(left, right) for left, right in merges],
        byte_fallback=True,
    )
    second = HfTokenizer(model)
    second.add_tokens([AddedToken(p, normalized=False) for p in by_type[PieceType.USER_DEFINED]])
    return second
