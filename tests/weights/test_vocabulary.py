"""Vocabularies from both file forms, and files that lie about theirs."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.errors import ModelFileError
from nestling.weights.vocabulary import (
    NO_RANK,
    PieceType,
    Vocabulary,
    vocabulary_from_folder,
    vocabulary_from_gguf,
)
from tests.chat.vocabularies import BYTES, SOFT, small_forms, write_folder

PATH = Path("small.gguf")
JSON = dict[str, Any]
Edit = Callable[[JSON], object]


def gguf(**changes: object) -> Vocabulary | None:
    """The small vocabulary's GGUF form with `tokenizer.ggml.*` keys changed; None: left out."""
    metadata = dict(small_forms().gguf_metadata)
    metadata.update({f"tokenizer.ggml.{key}": value for key, value in changes.items()})
    return vocabulary_from_gguf({k: v for k, v in metadata.items() if v is not None}, PATH)


def gguf_list(key: str) -> list[Any]:
    """A copy of one of the GGUF arrays."""
    value = small_forms().gguf_metadata[f"tokenizer.ggml.{key}"]
    assert isinstance(value, list)
    return list(value)


def assert_same(one: Vocabulary | None, other: Vocabulary | None) -> None:
    """Equal in every field."""
    assert one is not None
    assert other is not None
    assert one.pieces == other.pieces
    assert np.array_equal(one.types, other.types)
    assert np.array_equal(one.merge_ranks, other.merge_ranks)
    assert (one.bos_token_id, one.eos_token_ids) == (other.bos_token_id, other.eos_token_ids)
    assert one.start_of_turn_id == other.start_of_turn_id
    assert one.end_of_turn_id == other.end_of_turn_id


def test_both_forms_are_one_vocabulary(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, small_forms().tokenizer_json)
    assert_same(vocabulary_from_folder(folder), gguf())


def test_old_merges_form_is_the_same(tmp_path: Path) -> None:
    raw: JSON = copy.deepcopy(small_forms().tokenizer_json)
    raw["model"]["merges"] = [" ".join(merge) for merge in raw["model"]["merges"]]
    assert_same(vocabulary_from_folder(write_folder(tmp_path, raw)), gguf())


def test_bytes_and_arrays_are_the_same() -> None:
    tokens = [token.encode() for token in gguf_list("tokens")]
    arrays = {key: np.array(gguf_list(key)) for key in ("scores", "token_type")}
    assert_same(gguf(tokens=tokens, **arrays, bos_token_id=np.uint32(2)), gguf())


def test_kinds_of_piece() -> None:
    vocabulary = gguf()
    assert vocabulary is not None
    kind = {
        p: PieceType(t) for p, t in zip(vocabulary.pieces, vocabulary.types.tolist(), strict=True)
    }
    control = (
        "<eos>",
        "<unused12>",
        "<start_of_turn>",
        "<start_of_image>",
        "<start_of_audio>",
        *SOFT,
    )
    assert {kind[piece] for piece in control} == {PieceType.CONTROL}
    assert {kind[piece] for piece in BYTES} == {PieceType.BYTE}
    assert kind["<unk>"] == PieceType.UNKNOWN
    user_defined = ("[multimodal]", "\n\n", "\u2581\u2581", "\t", "<td>", "</s>")
    assert {kind[piece] for piece in user_defined} == {PieceType.USER_DEFINED}
    assert kind["a"] == PieceType.NORMAL
    assert vocabulary.pieces[vocabulary.bos_token_id] == "<bos>"
    ends = [vocabulary.pieces[i] for i in vocabulary.eos_token_ids]
    assert ends == ["<eos>", "<end_of_turn>"]


def test_only_merged_pieces_have_ranks() -> None:
    vocabulary = gguf()
    assert vocabulary is not None
    ranked = vocabulary.merge_ranks != NO_RANK
    assert set(vocabulary.types[ranked].tolist()) == {PieceType.NORMAL}
    assert sorted(vocabulary.merge_ranks[ranked].tolist()) == list(range(ranked.sum()))
    assert all(len(vocabulary.pieces[i]) > 1 for i in np.flatnonzero(ranked))


def test_equal_scores_are_equal_ranks() -> None:
    normal = [type_ == PieceType.NORMAL for type_ in gguf_list("token_type")]
    vocabulary = gguf(scores=[0.0] * len(normal))
    assert vocabulary is not None
    assert set(vocabulary.merge_ranks.tolist()) == {NO_RANK, 0}


def test_no_tokenizer_is_none(tmp_path: Path) -> None:
    assert vocabulary_from_folder(tmp_path) is None
    assert vocabulary_from_gguf({"general.architecture": "gemma3n"}, PATH) is None


def test_unused_pieces_and_padding_are_control() -> None:
    types, tokens = gguf_list("token_type"), gguf_list("tokens")
    a, extra = tokens.index("a"), tokens.index("extra")
    types[a], types[extra], tokens[extra] = 5, PieceType.NORMAL, "[PAD262145]"
    vocabulary = gguf(tokens=tokens, token_type=types)
    assert vocabulary is not None
    assert vocabulary.types[a] == vocabulary.types[extra] == PieceType.CONTROL


def changed(key: str, index: int, value: object) -> dict[str, object]:
    """One item of a GGUF array changed."""
    items = gguf_list(key)
    items[index] = value
    return {key: items}


ID_OF_BYTE_0 = gguf_list("tokens").index("<0x00>")
SIZE = len(gguf_list("tokens"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": "gpt2"}, r"tokenizer\.ggml\.model: expected 'llama'"),
        ({"add_space_prefix": True}, r"add_space_prefix: expected false"),
        ({"tokens": None}, r"tokenizer\.ggml\.tokens: expected an array, got NoneType"),
        ({"tokens": []}, r"tokenizer\.ggml\.tokens: expected an array"),
        ({"tokens": "abc"}, r"tokenizer\.ggml\.tokens: expected an array, got str"),
        ({"scores": None}, r"tokenizer\.ggml\.scores: expected an array"),
        ({"scores": [0.0]}, rf"tokenizer\.ggml\.scores: expected {SIZE} items, got 1"),
        (changed("scores", 9, float("nan")), r"tokenizer\.ggml\.scores: expected finite"),
        (changed("scores", 9, "x"), r"tokenizer\.ggml\.scores: expected finite"),
        (changed("scores", 9, [1.0]), r"tokenizer\.ggml\.scores: expected finite"),
        ({"token_type": [1]}, rf"tokenizer\.ggml\.token_type: expected {SIZE} items, got 1"),
        (changed("token_type", 9, 7), r"token_type\[9\]: expected one of 1 to 6, got 7"),
        (changed("token_type", 9, "3"), r"token_type\[9\]: expected one of 1 to 6, got '3'"),
        (changed("tokens", 7, b"\xff"), r"tokens\[7\]: expected UTF-8 text, got b'\\xff'"),
        (changed("tokens", 7, "\ud800"), r"tokens\[7\]: expected UTF-8 text"),
        (changed("tokens", 7, 7), r"tokens\[7\]: expected UTF-8 text, got 7"),
        ({"bos_token_id": SIZE}, rf"bos_token_id: expected an id below {SIZE}, got {SIZE}"),
        ({"eos_token_id": -1}, rf"eos_token_id: expected an id below {SIZE}, got -1"),
        ({"eos_token_id": "1"}, r"eos_token_id: expected an id below"),
        ({"eos_token_id": 10}, r"token 10: .* expected a control token, got '\\n', USER_DEFINED"),
        ({"bos_token_id": SIZE - 6}, r"expected a control token, got .*, NORMAL"),
        (changed("tokens", 8, "<no_turn>"), r"expected a control token <start_of_turn>"),
        (changed("tokens", 9, "<no_turn>"), r"expected a control token <end_of_turn>"),
        (changed("tokens", 1, "</eos>"), r"expected a control token <eos>"),
        (changed("tokens", SIZE - 6, "a"), r"'a' stands twice"),
        (changed("tokens", SIZE - 6, ""), r"'' cannot be of type NORMAL"),
        (changed("tokens", SIZE - 6, "<0x00>"), r"'<0x00>' cannot be of type NORMAL"),
        (changed("tokens", ID_OF_BYTE_0, "zero"), r"'zero' cannot be of type BYTE"),
        (changed("token_type", ID_OF_BYTE_0 + 0x41, 3), r"<0x41> is missing"),
    ],
)  # fmt: skip
def test_bad_gguf_vocabularies_name_the_key(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ModelFileError, match=problem) as caught:
        gguf(**changes)
    assert str(caught.value).startswith("small.gguf: ")


def edit_of(path: str, value: object) -> Edit:
    """Sets one entry of the parsed tokenizer.json, by a path such as "model.type"."""

    def edit(raw: JSON) -> None:
        *parents, last = path.split(".")
        for key in parents:
            raw = raw[key]
        raw[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (edit_of("model.type", "Unigram"), r"model\.type: expected 'BPE' .*, got 'Unigram'"),
        (edit_of("model.byte_fallback", False), r"model\.byte_fallback: expected True"),
        (edit_of("model.ignore_merges", True), r"model\.ignore_merges: expected False"),
        (edit_of("model.dropout", 0.1), r"model\.dropout: expected None"),
        (edit_of("model.end_of_word_suffix", "</w>"), r"end_of_word_suffix: expected None"),
        (edit_of("normalizer", {"type": "NFKC"}), r"normalizer: expected .*Replace"),
        (edit_of("normalizer", None), r"normalizer: expected .*Replace"),
        (edit_of("pre_tokenizer", {"type": "ByteLevel"}), r"pre_tokenizer: expected .*Split"),
        (edit_of("model.vocab.a", 0), r"model\.vocab: two pieces share one id"),
        (edit_of("model.vocab.a", 10**12), r"model\.vocab: expected ids 0 to"),
        (edit_of("model.vocab.a", -1), r"model\.vocab: expected ids 0 to"),
        (edit_of("model.vocab.a", "1"), r"not a tokenizer\.json: .*int.*model\.vocab"),
        (edit_of("model.merges", [["a", "b", "c"]]), r"model\.merges\[0\]: expected two pieces"),
        (edit_of("model.merges", ["a"]), r"model\.merges\[0\]: expected two pieces"),
        (edit_of("model.merges", [["a", "nothing"]]), r"model\.merges\[0\]: expected two pieces"),
        (lambda raw: raw["added_tokens"][0].update(content="x"), r"id 0 is 'x', but '<pad>'"),
        (lambda raw: raw["added_tokens"][8].update(lstrip=True), r"expected lstrip, rstrip"),
        (lambda raw: raw.pop("model"), r"not a tokenizer\.json: .*model"),
    ],
)  # fmt: skip
def test_bad_tokenizer_json_names_the_key(tmp_path: Path, edit: Edit, problem: str) -> None:
    raw: JSON = copy.deepcopy(small_forms().tokenizer_json)
    edit(raw)
    with pytest.raises(ModelFileError, match=problem):
        vocabulary_from_folder(write_folder(tmp_path, raw))


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff\xfe", b"{" * 100_000, b'{"model":' * 9000])
def test_what_is_no_tokenizer_json_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(raw)
    with pytest.raises(ModelFileError, match=r"is not a tokenizer\.json"):
        vocabulary_from_folder(tmp_path)


def test_an_unreadable_tokenizer_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(ModelFileError, match="cannot be read"):
        vocabulary_from_folder(tmp_path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=3)
ANY_VALUE = st.recursive(
    SCALARS | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


@given(
    key=st.sampled_from(
        ["model", "tokens", "scores", "token_type", "bos_token_id", "eos_token_id", "eot_token_id"]
    ),
    value=ANY_VALUE,
)
def test_any_value_gives_a_vocabulary_or_a_model_file_error(key: str, value: object) -> None:
    try:
        vocabulary = gguf(**{key: value})
    except ModelFileError:
        return
    assert vocabulary is None or vocabulary.pieces
