"""Turns token ids into text while they come, in whole characters.

Each answer has an object of its own, used by one thread.
"""

import codecs

from nestling.chat.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """The texts of `push` and `flush` together equal `Tokenizer.decode` of all ids pushed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Return the characters that this token completes, which may be none."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """Return U+FFFD if the answer ends within a character, else "". Then begin anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
