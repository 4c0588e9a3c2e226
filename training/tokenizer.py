"""Trains the tokenizer: byte-fallback BPE in the form of Gemma's, equal to SentencePiece BPE.

A piece's score is minus its rank of creation; ids of normal pieces ascend with that rank, so piece
order alone gives the scores (`spm.json` beside the model spells them out for a GGUF export).
"""

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from training import words
from training.data import conversation
from training.skills import payload

CONTROL = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
    "<start_of_audio>",
    "<end_of_audio>",
    "<audio_soft_token>",
]
NEWLINES = ["\n", "\n\n", "\n\n\n"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
SPACE = "\u2581"
CHAT_TEMPLATE = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- if "
    "messages[0]['content'] is string -%}"
    "{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{%- else -%}"
    "{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}"
    "{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first_user_prefix = '' -%}"
    "{%- set loop_messages = messages -%}{%- endif -%}{%- for message in loop_messages -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate "
    "user/assistant/user/assistant/...') }}{%- endif -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- else -%}"
    "{%- for item in message['content'] -%}{%- if item['type'] == 'text' "
    "-%}{{ item['text'] | trim }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)


def corpus(seed: int, count: int) -> list[str]:
    """Return generated conversations plus every list word, with and without a leading space."""
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        talk = conversation(rng)
        lines += [talk.system] if talk.system else []
        for turn in talk.turns:
            lines += [turn.user, turn.answer]
    extra = words.ALL_WORDS + words.NAMES + list(words.CAPITALS) + list(words.CAPITALS.values())
    lines += [f"{w} {w}" for w in extra] * 20
    lines += [payload.pseudo(rng) for _ in range(count // 4)]
    return [line.replace("\n", " ") for line in lines]


def alphabet() -> list[str]:
    """Return the characters that are always pieces of their own."""
    chars = (
        {chr(i) for i in range(33, 127)} | {chr(i) for i in range(0xA1, 0x180)} | set("“”‘’…–—€")
    )
    chars |= {c for v in words.TRANSLATIONS.values() for w in v for c in w}
    chars |= {c for e in words.EMOJI.values() for c in e}
    chars |= set(
        "가나다라마바사아자차카타파하이그저의을를은는도에서고한국어❤😀😁😃😄😅😆😉😍😘😜🤗🙂🙃😐😭🤖✨💯✅❌"
    )
    return sorted(c for c in chars if not c.isspace())


def learn_pieces(lines: list[str], size: int) -> list[str]:
    """Return normal pieces in order of creation: characters first, then merges."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Replace(" ", SPACE)
    split = Regex(rf"{SPACE}?[^\W\d_]+|\d|{SPACE}+|[^\s\w]|_")
    tok.pre_tokenizer = pre_tokenizers.Split(split, "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=[SPACE, *alphabet()],
        limit_alphabet=size,
        max_token_length=8,
        min_frequency=20,
        show_progress=False,
    )
    tok.train_from_iterator(lines, trainer)
    vocab = tok.get_vocab()
    return sorted(vocab, key=lambda p: vocab[p])


def all_merges(pieces: list[str]) -> list[tuple[str, str]]:
    """Return all splits of all pieces in two, best score first (as SentencePiece would merge)."""
    rank = {p: i for i, p in enumerate(pieces)}
    found = []
    for piece in pieces:
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in rank and right in rank:
                found.append((rank[piece], rank[left], rank[right], left, right))
    return [(f[3], f[4]) for f in sorted(found)]


def build(seed: int, size: int = 2048, count: int = 60000) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the contents of tokenizer.json and of spm.json."""
    head = [*CONTROL, *NEWLINES, *BYTES]
    pieces = learn_pieces(corpus(seed, count), size - len(head))
    vocab = {p: i for i, p in enumerate([*head, *pieces])}
    added = [
        {
            "id": vocab[t],
            "content": t,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": t in CONTROL,
        }
        for t in [*CONTROL, *NEWLINES]
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<bos>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "<bos>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<bos>", "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {
                "<bos>": {"id": "<bos>", "ids": [vocab["<bos>"]], "tokens": ["<bos>"]}
            },
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(m) for m in all_merges(pieces)],
        },
    }
    first = len(head)
    types = [3] * len(CONTROL) + [4] * len(NEWLINES) + [6] * 256 + [1] * len(pieces)
    types[CONTROL.index("<unk>")] = 2
    scores = [-1000.0 if t == 3 else 0.0 for t in types[:first]] + [
        float(-i) for i in range(len(pieces))
    ]
    return tokenizer, {"first_normal_id": first, "scores": scores, "token_type": types}


def tokenizer_config() -> dict[str, Any]:
    """Return the contents of tokenizer_config.json."""
    return {
        "tokenizer_class": "GemmaTokenizer",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "model_max_length": 2048,
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
        "boa_token": "<start_of_audio>",
        "eoa_token": "<end_of_audio>",
        "audio_token": "<audio_soft_token>",
        "chat_template": CHAT_TEMPLATE,
    }


def save(folder: Path, seed: int) -> None:
    """Train the tokenizer and write its three files."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, spm = build(seed)
    dump = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": tokenizer_config(),
        "spm.json": spm,
    }
    for name, value in dump.items():
        (folder / name).write_text(
            json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
