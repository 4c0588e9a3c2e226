"""The small tokenizer, shared by the tests of this room."""

from pathlib import Path

import pytest

from nestling.chat.tokenizer import Tokenizer
from nestling.weights.vocabulary import vocabulary_from_gguf
from tests.chat.vocabularies import SOFT, small_forms


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The small vocabulary as the model would use it: its soft tokens are no text."""
    vocabulary = vocabulary_from_gguf(small_forms().gguf_metadata, Path("small.gguf"))
    assert vocabulary is not None
    return Tokenizer(vocabulary, len(vocabulary.pieces) - len(SOFT))
