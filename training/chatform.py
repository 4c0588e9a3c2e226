"""Turns conversations into token ids in Gemma's chat format; control tokens are inserted as ids."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

Messages = list[dict[str, str]]


@dataclass
class ChatTokenizer:
    """The trained tokenizer with its control ids."""

    tok: Tokenizer

    @classmethod
    def load(cls, folder: Path) -> "ChatTokenizer":
        """Return the tokenizer of a folder with `tokenizer.json`."""
        tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tok.encode_special_tokens = True
        return cls(tok)

    def __post_init__(self) -> None:
        self.bos, self.eos = self._id("<bos>"), self._id("<eos>")
        self.start, self.end = self._id("<start_of_turn>"), self._id("<end_of_turn>")
        self.newline = self._id("\n")
        self.text = lru_cache(maxsize=4096)(self._text)

    def _id(self, piece: str) -> int:
        return int(self.tok.get_vocab()[piece])

    def _text(self, text: str) -> tuple[int, ...]:
        return tuple(self.tok.encode(text, add_special_tokens=False).ids)

    def encode(self, messages: Messages) -> tuple[list[int], list[bool]]:
        """Return the ids of the conversation and, for each, whether the model is to produce it."""
        ids, trained, prefix = [self.bos], [False], ""
        for message in messages:
            text = message["content"]
            if message["role"] == "system":
                prefix = text + "\n\n"
                continue
            model = message["role"] == "assistant"
            learned = model and "given" not in message
            role = self.text("model\n" if model else "user\n")
            body = self.text(prefix + text.strip())
            prefix = ""
            ids += [self.start, *role, *body, self.end, self.newline]
            trained += [False] * (1 + len(role)) + [learned] * (len(body) + 1) + [False]
        return ids, trained

    def prompt(self, messages: Messages) -> list[int]:
        """Return the ids up to where the model's answer begins."""
        return [*self.encode(messages)[0], self.start, *self.text("model\n")]

    def decode(self, ids: list[int]) -> str:
        """Return the text of generated ids."""
        return str(self.tok.decode(ids, skip_special_tokens=True))
