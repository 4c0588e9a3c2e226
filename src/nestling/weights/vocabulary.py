"""Vocabularies from files: a folder's `tokenizer.json` or a GGUF's `tokenizer.ggml.*` keys.

Both become one `Vocabulary`: pieces by id, what kind each is, and the order in which merges make
them. What kind a piece is, is decided here and only here: the `special` flags of tokenizer.json
are not trusted (Gemma's file has them false for unused tokens), names and types decide. How text
becomes ids is `chat/tokenizer.py`'s.
"""

import codecs
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from nestling.errors import ModelFileError

SPACE = "\u2581"
"""What stands for a blank inside a piece."""

START_OF_TURN = "<start_of_turn>"
END_OF_TURN = "<end_of_turn>"
NO_RANK = -1

# Never to be made from text, whatever type or flag the file gives them: Gemma's own names, the rows
# that converters pad a table with, and the reserved ones.
_CONTROL_NAME = re.compile(
    r"<(?:pad|bos|eos|unk|mask|(?:start|end)_of_\w+|\w+_soft_token|unused\d+|special_token_\d+)>"
    r"|\[PAD\d+\]"
)
_CONTROL_BEGIN = ("<", "[")
"""How each of those names begins: most pieces need no search."""
_BYTE_NAME = re.compile(r"<0x([0-9A-F]{2})>")


class PieceType(IntEnum):
    """Kinds of piece, numbered as in SentencePiece and GGUF (5, unused, is read as CONTROL)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    BYTE = 6


_UNUSED = 5
# Plain integers: the loops below see a quarter of a million pieces.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = map(int, PieceType)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """One vocabulary, whatever file it came from. `id` indexes `pieces`, `types`, `merge_ranks`."""

    pieces: tuple[str, ...]
    """Text of each id, blanks as `SPACE`."""
    types: NDArray[np.uint8]
    """[vocab_size] `PieceType` values."""
    merge_ranks: NDArray[np.int32]
    """[vocab_size] 0 merges first; equal ranks merge from the left; NO_RANK: no merge makes it."""
    bos_token_id: int
    eos_token_ids: tuple[int, ...]
    """Every id that ends an answer, ascending; `end_of_turn_id` is one of them."""
    start_of_turn_id: int
    end_of_turn_id: int


def vocabulary_from_folder(path: Path) -> Vocabulary | None:
    """The vocabulary of a checkpoint folder's `tokenizer.json`; None if there is no such file.

    Raises ModelFileError naming the key if the file is not a byte-fallback BPE as Gemma's.
    """
    file = path / "tokenizer.json"
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelFileError(file, f"cannot be read: {error.strerror}") from error
    try:
        parsed = msgspec.json.decode(raw.removeprefix(codecs.BOM_UTF8), type=_TokenizerJson)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFileError(file, f"is not a tokenizer.json: {error}") from error
    return _from_json(parsed, file)


def vocabulary_from_gguf(metadata: Mapping[str, object], path: Path) -> Vocabulary | None:
    """The SentencePiece vocabulary in GGUF metadata; None if the file carries no tokenizer.

    `tokens` may be strings or UTF-8 bytes. Raises ModelFileError naming the key at fault.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind in (None, "none"):
        return None
    if kind != "llama":
        raise ModelFileError(
            path, f"tokenizer.ggml.model: expected 'llama' (SentencePiece), got {kind!r}"
        )
    if metadata.get("tokenizer.ggml.add_space_prefix"):
        raise ModelFileError(
            path, "tokenizer.ggml.add_space_prefix: expected false as in Gemma, got true"
        )
    names = _texts(_array(metadata, "tokens", None, path), path)
    scores = _scores(metadata, len(names), path)
    types = _gguf_types(metadata, names, path)
    pieces = _with_space_mark(names, types)
    mergeable = [i for i, type_ in enumerate(types) if type_ == _NORMAL and len(pieces[i]) > 1]
    ranks = np.full(len(pieces), NO_RANK, np.int32)
    # Dense ranks: equal scores share one, so that ties go to the left as in SentencePiece.
    ranks[mergeable] = np.unique(-scores[mergeable], return_inverse=True)[1]
    ids = {
        role: _token_id(metadata, role, len(pieces), path)
        for role in ("bos", "eos", "eot")
        if f"tokenizer.ggml.{role}_token_id" in metadata
    }
    eos = [ids[role] for role in ("eos", "eot") if role in ids]
    return _checked(pieces, types, ranks, bos=ids.get("bos"), eos=eos, path=path)


# --- tokenizer.json ------------------------------------------------------------------------------


class _AddedToken(msgspec.Struct):
    id: int
    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class _Bpe(msgspec.Struct):
    vocab: dict[str, int]
    merges: list[str | list[str]]
    type: str | None = "BPE"
    byte_fallback: bool = False
    ignore_merges: bool | None = False
    dropout: float | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class _TokenizerJson(msgspec.Struct):
    model: _Bpe
    added_tokens: list[_AddedToken] = []
    normalizer: dict[str, object] | None = None
    pre_tokenizer: dict[str, object] | None = None


def _from_json(parsed: _TokenizerJson, path: Path) -> Vocabulary:
    _check_pipeline(parsed, path)
    added = {token.id: token for token in parsed.added_tokens}
    names = {token_id: name for name, token_id in parsed.model.vocab.items()}
    if len(names) < len(parsed.model.vocab):
        raise ModelFileError(path, "model.vocab: two pieces share one id")
    for token in parsed.added_tokens:
        if names.get(token.id, token.content) != token.content:
            raise ModelFileError(
                path,
                f"added_tokens: id {token.id} is {token.content!r}, but {names[token.id]!r} in "
                "model.vocab",
            )
    size = len(names.keys() | added.keys())
    if sorted(names.keys() | added.keys()) != list(range(size)):
        raise ModelFileError(path, f"model.vocab: expected ids 0 to {size - 1}, each once")
    pieces = tuple(names[i] if i in names else added[i].content for i in range(size))
    types = [_json_type(piece, added.get(i), i in names, path) for i, piece in enumerate(pieces)]
    ranks = _ranks_of_merges(parsed.model, types, path)
    return _checked(_with_space_mark(pieces, types), types, ranks, path=path)


def _check_pipeline(parsed: _TokenizerJson, path: Path) -> None:
    """Refuse every tokenizer that works in another way than Gemma's."""
    model = parsed.model
    replace_blank = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    split_blank = {"type": "Split", "pattern": {"String": " "}}
    split = {key: (parsed.pre_tokenizer or split_blank).get(key) for key in ("type", "pattern")}
    found: dict[str, tuple[object, object]] = {
        "model.type": (model.type, "BPE"),
        "model.byte_fallback": (model.byte_fallback, True),
        "model.ignore_merges": (bool(model.ignore_merges), False),
        "model.dropout": (model.dropout or None, None),
        "model.continuing_subword_prefix": (model.continuing_subword_prefix or None, None),
        "model.end_of_word_suffix": (model.end_of_word_suffix or None, None),
        "normalizer": (parsed.normalizer, replace_blank),
        # Blanks are gone when it acts, so Gemma's splits nothing.
        "pre_tokenizer": (split, split_blank),
    }
    for key, (got, expected) in found.items():
        if got != expected:
            raise ModelFileError(path, f"{key}: expected {expected!r} as in Gemma, got {got!r}")


def _json_type(name: str, added: _AddedToken | None, is_in_vocab: bool, path: Path) -> int:
    """Kind of one piece; ids beyond `model.vocab` are the towers' soft tokens, never text."""
    if name == "<unk>":
        return _UNKNOWN
    if _CONTROL_NAME.fullmatch(name) or not is_in_vocab or (added and added.special):
        return _CONTROL
    if _BYTE_NAME.fullmatch(name):
        return _BYTE
    if added is None:
        return _NORMAL
    if added.lstrip or added.rstrip or added.single_word:
        raise ModelFileError(
            path, f"added_tokens: {name!r}: expected lstrip, rstrip and single_word false"
        )
    return _USER_DEFINED


def _ranks_of_merges(model: _Bpe, types: Sequence[int], path: Path) -> NDArray[np.int32]:
    """[vocab_size] rank of a piece: that of the first merge that makes it, counted densely."""
    ranks = [NO_RANK] * len(types)
    next_rank = 0
    for i, merge in enumerate(model.merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        token_id = model.vocab.get("".join(pair)) if len(pair) == 2 else None
        if token_id is None or not all(part in model.vocab for part in pair):
            raise ModelFileError(
                path, f"model.merges[{i}]: expected two pieces that make a third, got {merge!r}"
            )
        if types[token_id] == _NORMAL and ranks[token_id] == NO_RANK:
            ranks[token_id] = next_rank
            next_rank += 1
    return np.array(ranks, np.int32)


# --- GGUF ----------------------------------------------------------------------------------------


def _array(
    metadata: Mapping[str, object], name: str, length: int | None, path: Path
) -> Sequence[object]:
    """The array `tokenizer.ggml.<name>`, of `length` items unless that is None."""
    key = f"tokenizer.ggml.{name}"
    value = metadata.get(key)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple) or not value:
        raise ModelFileError(path, f"{key}: expected an array, got {type(value).__name__}")
    if length is not None and len(value) != length:
        raise ModelFileError(path, f"{key}: expected {length} items, got {len(value)}")
    return value


def _texts(tokens: Sequence[object], path: Path) -> Sequence[str]:
    """All pieces as text; at once where they are strings, else one by one."""
    texts = [token for token in tokens if isinstance(token, str)]
    if len(texts) == len(tokens):
        with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate, to be named below
            "".join(texts).encode()
            return texts
    return [_text(token, i, path) for i, token in enumerate(tokens)]


def _text(token: object, index: int, path: Path) -> str:
    raw = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else None
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise ModelFileError(
            path, f"tokenizer.ggml.tokens[{index}]: expected UTF-8 text, got {token!r}"
        )
    return text


def _scores(metadata: Mapping[str, object], length: int, path: Path) -> NDArray[np.float64]:
    values = _array(metadata, "scores", length, path)
    try:
        scores = np.array(values, np.float64)
    except (TypeError, ValueError):
        scores = np.array([np.nan])
    if scores.shape != (length,) or not np.isfinite(scores).all():
        raise ModelFileError(path, "tokenizer.ggml.scores: expected finite numbers only")
    return scores


def _gguf_types(metadata: Mapping[str, object], names: Sequence[str], path: Path) -> list[int]:
    known = {int(type_): int(type_) for type_ in PieceType} | {_UNUSED: _CONTROL}
    values = _array(metadata, "token_type", len(names), path)
    for i, value in enumerate(values):
        if not isinstance(value, int) or value not in known:
            raise ModelFileError(
                path, f"tokenizer.ggml.token_type[{i}]: expected one of 1 to 6, got {value!r}"
            )
    types = [known[value] for value in values]  # type: ignore[index]
    for i, name in enumerate(names):
        if name[:1] in _CONTROL_BEGIN and types[i] != _UNKNOWN and _CONTROL_NAME.fullmatch(name):
            types[i] = _CONTROL
    return types


def _token_id(metadata: Mapping[str, object], role: str, vocab_size: int, path: Path) -> int:
    key = f"tokenizer.ggml.{role}_token_id"
    value = metadata[key]
    if isinstance(value, np.integer):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < vocab_size:
        raise ModelFileError(path, f"{key}: expected an id below {vocab_size}, got {value!r}")
    return value


# --- both ----------------------------------------------------------------------------------------


def _with_space_mark(names: Sequence[str], types: Sequence[int]) -> tuple[str, ...]:
    """The pieces with `SPACE` for blanks, which user-defined ones in GGUF hold as they are."""
    return tuple(
        name if type_ == _CONTROL else name.replace(" ", SPACE)
        for name, type_ in zip(names, types, strict=True)
    )


def _checked(
    pieces: tuple[str, ...],
    types: Sequence[int],
    merge_ranks: NDArray[np.int32],
    *,
    bos: int | None = None,
    eos: Sequence[int] = (),
    path: Path,
) -> Vocabulary:
    """The vocabulary, if it can encode any text and has Gemma's turn tokens."""
    _check_pieces(pieces, types, path)
    control = {pieces[i]: i for i, type_ in enumerate(types) if type_ == _CONTROL}
    find = _finder(control, path)
    start_of_turn, end_of_turn = find(START_OF_TURN), find(END_OF_TURN)
    bos = find("<bos>") if bos is None else bos
    ends = {find("<eos>"), end_of_turn, *eos}
    for token_id in (bos, *ends):
        if types[token_id] != _CONTROL:
            raise ModelFileError(
                path,
                f"token {token_id}: begins or ends a text, so expected a control token, got "
                f"{pieces[token_id]!r}, {PieceType(types[token_id]).name}",
            )
    type_array = np.array(types, np.uint8)
    type_array.flags.writeable = merge_ranks.flags.writeable = False
    return Vocabulary(
        pieces, type_array, merge_ranks, bos, tuple(sorted(ends)), start_of_turn, end_of_turn
    )


def _finder(control: Mapping[str, int], path: Path) -> Callable[[str], int]:
    def find(name: str) -> int:
        if name not in control:
            raise ModelFileError(path, f"vocabulary: expected a control token {name}, found none")
        return control[name]

    return find


def _check_pieces(pieces: tuple[str, ...], types: Sequence[int], path: Path) -> None:
    """Each byte has its piece, and no two pieces that text can become are the same."""
    seen: set[str] = set()
    for token_id, (piece, type_) in enumerate(zip(pieces, types, strict=True)):
        if type_ in (_CONTROL, _UNKNOWN):
            continue
        is_byte = piece.startswith("<0x") and _BYTE_NAME.fullmatch(piece) is not None
        if (type_ == _BYTE) != is_byte or not piece:
            raise ModelFileError(
                path, f"token {token_id}: {piece!r} cannot be of type {PieceType(type_).name}"
            )
        if piece in seen:
            raise ModelFileError(
                path, f"token {token_id}: {piece!r} stands twice in the vocabulary"
            )
        seen.add(piece)
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in seen]
    if missing:
        raise ModelFileError(path, f"vocabulary: expected 256 byte pieces, {missing[0]} is missing")


def byte_of_piece(piece: str) -> int:
    """The byte that a BYTE piece such as `<0x0A>` stands for."""
    match = _BYTE_NAME.fullmatch(piece)
    assert match is not None
    return int(match[1], 16)
