"""The embedded model's vocabulary: its tokenizer.json, the same as a GGUF, and a second reader."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as HfTokenizer

import nestling.assets
from nestling.chat.tokenizer import Tokenizer
from nestling.weights.vocabulary import vocabulary_from_folder, vocabulary_from_gguf
from tests.chat.strings import strings
from tests.chat.vocabularies import BYTE, CONTROL, NORMAL, USER_DEFINED

NANO = Path(nestling.assets.__path__[0]) / "nano"


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    vocabulary = vocabulary_from_folder(NANO)
    assert vocabulary is not None
    return Tokenizer(vocabulary)


def gguf_metadata() -> dict[str, object]:
    """The vocabulary as SentencePiece arrays; normal pieces stand in the order of their scores."""
    raw = json.loads((NANO / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"]: token["special"] for token in raw["added_tokens"]}
    tokens = sorted(raw["model"]["vocab"], key=raw["model"]["vocab"].__getitem__)

    def type_of(token: str) -> int:
        if token in special:
            return CONTROL if special[token] else USER_DEFINED
        return BYTE if token.startswith("<0x") else NORMAL

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [token.replace("\u2581", " ") for token in tokens],
        "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
        "tokenizer.ggml.token_type": [type_of(token) for token in tokens],
    }


def test_both_file_forms_give_the_same_ids(nano: Tokenizer) -> None:
    vocabulary = vocabulary_from_gguf(gguf_metadata(), Path("nano.gguf"))
    assert vocabulary is not None
    other = Tokenizer(vocabulary)
    for text in strings(10_000, seed=4):
        assert nano.encode(text) == other.encode(text), repr(text)


def test_equals_the_tokenizers_library_on_the_same_file(nano: Tokenizer) -> None:
    """With which the model was trained."""
    second = HfTokenizer.from_file(str(NANO / "tokenizer.json"))
    second.encode_special_tokens = True
    for text in strings(10_000, seed=5):
        ids = nano.encode(text)
        assert ids == second.encode(text, add_special_tokens=False).ids, repr(text)
        assert nano.decode(ids) == text.replace("\u2581", " ")
        assert not nano.control_ids.intersection(ids)
