"""A small vocabulary shaped as Gemma's, in both of its file forms, trained in a second."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer
from tokenizers import models, normalizers, pre_tokenizers, trainers

from tests.chat.strings import CODE, SENTENCES

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
HEAD = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[multimodal]", "<unused0>", "<unused12>")
TURNS = ("<start_of_turn>", "<end_of_turn>")
NEWLINES = tuple("\n" * n for n in range(1, 32))
BLANKS = tuple("\u2581" * n for n in range(2, 32))
TABS = tuple("\t" * n for n in range(1, 8))
TAGS = ("<table>", "<tr>", "<td>", "</td>", "</tr>", "</table>", "<b>", "</b>", "</s>", "</html>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
IMAGE = ("<start_of_image>", "<start_of_audio>")
SOFT = ("<end_of_image>", "<image_soft_token>", "<end_of_audio>", "<audio_soft_token>", "extra")


@dataclass(frozen=True)
class Forms:
    """One vocabulary as the two files would have it."""

    tokenizer_json: dict[str, object]
    gguf_metadata: dict[str, object]


@cache
def small_forms() -> Forms:
    """The small vocabulary; ids of `SOFT` lie beyond the text ids, as in Gemma 3n."""
    user_defined = ("[multimodal]", *NEWLINES, *BLANKS, *TABS, *TAGS)
    head = (*HEAD, *TURNS, *NEWLINES, *BLANKS, *TAGS, *BYTES, *TABS, *IMAGE)
    normal = [piece for piece in _trained_pieces() if piece not in head]
    base = (*head, *normal)
    vocab = {piece: i for i, piece in enumerate(base)}
    special = {"<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *TURNS, *SOFT}
    added = [piece for piece in (*base, *SOFT) if piece in special or piece in user_defined]
    added += ["<unused0>", "<unused12>", *IMAGE]
    ids = vocab | {piece: len(base) + i for i, piece in enumerate(SOFT)}
    tokenizer_json: dict[str, object] = {
        "version": "1.0",
        "added_tokens": [
            # As in Gemma's file: unused tokens and even <start_of_image> are not flagged special.
            {"id": ids[p], "content": p, "special": p in special, "normalized": False,
             "lstrip": False, "rstrip": False, "single_word": False}
            for p in added
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "},
                          "behavior": "MergedWithPrevious", "invert": False},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": vocab,
                  "merges": all_splits(normal, set(base))},
    }  # fmt: skip
    types = dict.fromkeys((*user_defined, *IMAGE), USER_DEFINED)
    types |= dict.fromkeys(BYTES, BYTE) | dict.fromkeys(normal, NORMAL) | {"<unk>": UNKNOWN}
    tokens = (*base, *SOFT)
    gguf_metadata: dict[str, object] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [
            piece.replace("\u2581", " ") if piece in user_defined else piece for piece in tokens
        ],
        "tokenizer.ggml.scores": [-1000.0] * len(head)
        + [-float(i) for i in range(len(normal))]
        + [-1000.0] * len(SOFT),
        "tokenizer.ggml.token_type": [types.get(piece, CONTROL) for piece in tokens],
        "tokenizer.ggml.bos_token_id": vocab["<bos>"],
        "tokenizer.ggml.eos_token_id": vocab["<end_of_turn>"],
        "tokenizer.ggml.add_space_prefix": False,
    }
    return Forms(tokenizer_json, gguf_metadata)


def all_splits(normal: list[str], pieces: set[str]) -> list[list[str]]:
    """Merges as converters write them: by the rank of the result, each split into two pieces."""
    return [
        [piece[:cut], piece[cut:]]
        for piece in normal
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]


def write_folder(folder: Path, tokenizer_json: dict[str, object]) -> Path:
    """`folder` with this tokenizer.json."""
    text = json.dumps(tokenizer_json, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return folder


def _trained_pieces() -> list[str]:
    """Characters, then merges in the order they were learned."""
    trainer = trainers.BpeTrainer(vocab_size=1200, initial_alphabet=[">", "\u2581", "a", "b", "h"])
    tokenizer = HfTokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    repeats = ["aaaaaaaaaaaaaaaa", "abababab hahahaha", "1000 2000 model user system"]
    lines = [*SENTENCES, *CODE, *repeats]
    tokenizer.train_from_iterator([line.replace("\n", " ") for line in lines] * 3, trainer)
    vocab = tokenizer.get_vocab()
    return sorted(vocab, key=lambda piece: vocab[piece])
