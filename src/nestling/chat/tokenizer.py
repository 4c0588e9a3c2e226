"""Turns text into token ids and back, as SentencePiece does it for Gemma.

It is BPE with byte fallback over one `Vocabulary`. docs/adr/0005-own-bpe.md tells why the merge
loop is ours. No text becomes a control token, because `encode` looks only in tables of normal,
user-defined and byte pieces. Threads may share a tokenizer: it never changes, but for tables that
are made when first used.
"""

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from operator import add

import numpy as np

from nestling.errors import InvalidRequestError
from nestling.weights.checkpoint import Checkpoint
from nestling.weights.vocabulary import NO_RANK, SPACE, PieceType, Vocabulary, byte_of_piece

_CACHED_WORDS = 16_384
_CACHED_WORD_CHARS = 32  # longer words hardly come again; bounds the cache to about 10 MB

_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1


class Tokenizer:
    """Encodes and decodes with one vocabulary.

    `num_text_tokens` is the number of ids that the model takes as text, as its per-layer table has
    rows for no more. None means the whole vocabulary. Text never becomes an id at or beyond it.
    """

    def __init__(self, vocabulary: Vocabulary, num_text_tokens: int | None = None) -> None:
        self.vocab_size = len(vocabulary.pieces)
        self.bos_token_id = vocabulary.bos_token_id
        self.eos_token_ids = vocabulary.eos_token_ids
        self.start_of_turn_id = vocabulary.start_of_turn_id
        self.end_of_turn_id = vocabulary.end_of_turn_id
        self.num_text_tokens = min(self.vocab_size, num_text_tokens or self.vocab_size)
        types = vocabulary.types.copy()
        types[self.num_text_tokens :] = PieceType.CONTROL
        is_control = (types == PieceType.CONTROL) | (types == PieceType.UNKNOWN)
        self.control_ids = frozenset(np.flatnonzero(is_control).tolist())
        """Ids that no text becomes and that show no text."""
        self._pieces = vocabulary.pieces
        ids_of = {type_: np.flatnonzero(types == type_).tolist() for type_ in PieceType}
        self._byte_of_id = {i: byte_of_piece(self._pieces[i]) for i in ids_of[PieceType.BYTE]}
        self._id_of_byte = {byte: i for i, byte in self._byte_of_id.items()}
        self._id_of_piece = {self._pieces[i]: i for i in ids_of[PieceType.NORMAL]}
        ranks = vocabulary.merge_ranks.tolist()
        self._rank_of_piece = {
            piece: ranks[i] for piece, i in self._id_of_piece.items() if ranks[i] != NO_RANK
        }
        self._id_of_user_defined = {self._pieces[i]: i for i in ids_of[PieceType.USER_DEFINED]}
        self._user_defined = _longest_first(self._id_of_user_defined)
        self._cached_word = lru_cache(_CACHED_WORDS)(self._encode_word)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` without bos, never one of `control_ids`.

        A blank and U+2581 become the same pieces, as in SentencePiece. Raises InvalidRequestError
        for a lone surrogate, which is no text.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                f"expected text, got a lone surrogate U+{ord(text[error.start]):04X} at character "
                f"{error.start}"
            ) from None
        ids: list[int] = []
        for segment, user_defined_id in self._segments(text.replace(" ", SPACE)):
            for word in self._words(segment):
                is_short = len(word) <= _CACHED_WORD_CHARS
                ids.extend(self._cached_word(word) if is_short else self._encode_word(word))
            if user_defined_id is not None:
                ids.append(user_defined_id)
        return ids

    def min_tokens(self, text: str, enough: int | None = None) -> int:
        """Return a lower bound of `len(encode(text))`, some 50 times cheaper.

        A token is at most as long as the longest piece that holds one of its characters. So the
        characters' shares 1/longest add up to at most 1 in each token. With `enough`, a bound that
        costs nothing is returned if it is that high.
        """
        least = math.ceil(len(text) / self.max_token_chars)
        if enough is not None and least >= enough:
            return least
        counts = Counter(text.replace(" ", SPACE))
        shares = math.fsum(n / self._longest_piece.get(char, 1) for char, n in counts.items())
        return math.ceil(shares * (1 - 1e-9))

    @property
    def max_token_chars(self) -> int:
        """Return the most characters that one token covers."""
        return max(self._longest_piece.values(), default=1)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Return the text of `ids`. Bytes that are not UTF-8 become U+FFFD.

        Control tokens show nothing, or their names if `skip_special` is false.
        """
        parts = [
            self.token_bytes(i) if skip_special else self.token_bytes(i) or self._name(i).encode()
            for i in ids
        ]
        return b"".join(parts).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that one token adds to the text, maybe part of a character.

        Control tokens and ids beyond the vocabulary add b"".
        """
        if token_id in self._byte_of_id:
            return bytes((self._byte_of_id[token_id],))
        if token_id in self.control_ids or token_id >= self.vocab_size:
            return b""
        return self._pieces[token_id].replace(SPACE, " ").encode()

    def token_text(self, token_id: int) -> str:
        """Return a token as shown beside a logprob: controls by name, half characters as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace") or self._name(token_id)

    def _name(self, token_id: int) -> str:
        return self._pieces[token_id] if token_id < self.vocab_size else ""

    def _segments(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Yield (text before, id) for each user-defined piece, always the longest at its place."""
        start = 0
        if self._user_defined is not None:
            for match in self._user_defined.finditer(text):
                yield text[start : match.start()], self._id_of_user_defined[match[0]]
                start = match.end()
        yield text[start:], None

    def _words(self, segment: str) -> Iterator[str]:
        """Cut `segment` wherever no piece could run on, which changes no result of the merges."""
        inner, start = self._inner_pairs, 0
        for end, pair in enumerate(map(add, segment, islice(segment, 1, None)), 1):
            if pair not in inner:
                yield segment[start:end]
                start = end
        if start < len(segment):
            yield segment[start:]

    def _encode_word(self, word: str) -> Sequence[int]:
        symbols = merge_symbols(word, self._rank_of_piece) if len(word) > 1 else (word,)
        ids: list[int] = []
        for symbol in symbols:
            token_id = self._id_of_piece.get(symbol)
            if token_id is None:
                ids.extend(self._id_of_byte[byte] for byte in symbol.encode())
            else:
                ids.append(token_id)
        return tuple(ids)

    @cached_property
    def _inner_pairs(self) -> set[str]:
        """Return all neighbours within pieces. No piece and no merge crosses any other two."""
        return {
            first + second for piece in self._rank_of_piece for first, second in pairwise(piece)
        }

    @cached_property
    def _longest_piece(self) -> dict[str, int]:
        """Return for each character the length of the longest piece that holds it."""
        by_length: dict[int, list[str]] = {}
        for piece in (*self._id_of_piece, *self._id_of_user_defined):
            by_length.setdefault(len(piece), []).append(piece)
        longest: dict[str, int] = {}
        for length in sorted(by_length):
            longest |= dict.fromkeys("".join(by_length[length]), length)
        return longest


def open_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """Return the checkpoint's tokenizer, bounded to the ids of text; None if it has none."""
    if checkpoint.vocabulary is None:
        return None
    return Tokenizer(checkpoint.vocabulary, checkpoint.config.num_text_tokens)


def end_token_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Return the ids that end an answer, by configuration or vocabulary, ascending."""
    vocabulary = checkpoint.vocabulary
    by_vocabulary = vocabulary.eos_token_ids if vocabulary else ()
    return tuple(sorted({*checkpoint.config.eos_token_ids, *by_vocabulary}))


def merge_symbols(word: str, rank_of_piece: dict[str, int]) -> list[str]:
    """Return the symbols of `word` after all merges, in O(n log n).

    SentencePiece's rule merges the neighbours whose union has the lowest rank, and of equal ones
    the leftmost. A rank belongs to the union, not to the pair of its parts.
    """
    size = len(word)
    symbols, following, preceding = list(word), list(range(1, size + 1)), list(range(-1, size - 1))
    get = rank_of_piece.get
    # ranks[i]: of the symbol at i joined with the one that follows it; NO_RANK if they don't merge.
    ranks = [get(first + second, NO_RANK) for first, second in pairwise(word)]
    ranks.append(NO_RANK)
    heap = [rank << _INDEX_BITS | i for i, rank in enumerate(ranks) if rank != NO_RANK]
    heapq.heapify(heap)
    while heap:
        key = heapq.heappop(heap)
        left = key & _INDEX_MASK
        if ranks[left] != key >> _INDEX_BITS:
            continue  # one of the two has merged with another since
        right = following[left]
        merged = symbols[left] = symbols[left] + symbols[right]
        ranks[left] = ranks[right] = NO_RANK
        after, before = following[right], preceding[left]
        following[left] = after
        if after < size:
            preceding[after] = left
            rank = ranks[left] = get(merged + symbols[after], NO_RANK)
            if rank != NO_RANK:
                heapq.heappush(heap, rank << _INDEX_BITS | left)
        if before >= 0:
            rank = ranks[before] = get(symbols[before] + merged, NO_RANK)
            if rank != NO_RANK:
                heapq.heappush(heap, rank << _INDEX_BITS | before)
    remaining, i = [], 0
    while i < size:
        remaining.append(symbols[i])
        i = following[i]
    return remaining


def _longest_first(pieces: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern of any of `pieces`, the longest where several begin; None for none."""
    by_length = sorted(pieces, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, by_length))) if by_length else None
