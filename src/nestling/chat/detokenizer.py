"""Token ids to text while they come: whole characters only. One per answer, for one thread."""

import codecs

from nestling.chat.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """What `push` returned so far, with `flush`, equals `Tokenizer.decode` of all ids pushed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes, "" if it ends within one or shows nothing."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """U+FFFD if the answer ends within a character, else ""; begins anew after it."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
