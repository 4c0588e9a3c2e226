"""Turns small phrase grammars into varied prompts.

`[a|b|]` picks one alternative (nesting allowed); `{x}` inserts a slot. Payload slots are wrapped in
markers, so that lower-casing, typos and dropped punctuation never touch what an answer must repeat.
"""

import random
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

HARD, SOFT, END, BARE = "\x01", "\x03", "\x02", "~"
_SPLIT = re.compile(r"([\x01\x03][^\x02]*\x02)")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass
class Turn:
    """One question with its only right answer and the check that scores a reply."""

    skill: str
    user: str
    answer: str
    key: str
    check: dict[str, Any] = field(default_factory=dict)
    is_given: bool = False
    """Somebody else's answer, in the history only: the model does not learn to say it."""

    def __post_init__(self) -> None:
        if not self.check:
            self.check = {"kind": "exact", "value": self.answer}


def is_held(skill: str, key: str) -> bool:
    """Return whether this payload belongs to the held-out split (one in ten, by a stable hash)."""
    plain = re.sub(r"[^\w]+", " ", key.lower()).strip()
    return zlib.crc32(f"{skill}|{plain}".encode()) % 10 == 0


def hard(text: str) -> str:
    """Mark payload that must reach the model unchanged."""
    return f"{HARD}{text}{END}"


def soft(text: str) -> str:
    """Mark payload of a closed set: it may be lower-cased, and is rarely misspelt."""
    return f"{SOFT}{text}{END}"


@cache
def _parse(text: str) -> tuple[Any, ...]:
    """Return the parts of a grammar string: plain strings and tuples of alternatives."""
    parts: list[str | tuple[str, ...]] = []
    options: list[str] = []
    pos = depth = start = 0
    for i, c in enumerate(text):
        if c == "[":
            if depth == 0:
                parts.append(text[pos:i])
                start, options = i + 1, []
            depth += 1
        elif c == "|" and depth == 1:
            options.append(text[start:i])
            start = i + 1
        elif c == "]":
            depth -= 1
            if depth == 0:
                options.append(text[start:i])
                parts.append(tuple(options))
                pos = i + 1
    parts.append(text[pos:])
    return tuple(parts)


def expand(rng: random.Random, text: str) -> str:
    """Return one random sentence of the grammar `text`, with its slots left in place."""
    return "".join(p if isinstance(p, str) else expand(rng, rng.choice(p)) for p in _parse(text))


def fill(rng: random.Random, text: str, slots: Mapping[str, str]) -> str:
    """Return a random sentence of the grammar with its slots filled."""
    return _SLOT.sub(lambda m: slots[m.group(1)], expand(rng, text))


OPEN_DO = (
    "[||||||please |please |pls |plz |can you |can you |can you please |could "
    "you |could you please |"
    "would you |will you |would you please |i want you to |i need you to |i'd "
    "like you to |kindly |"
    "hey, |hey |hi, can you |hello, please |ok, |now |ok now |now please |"
    "just |go ahead and |try to |"
    "your task is to |i would like you to |help me: |hey can you |hey nestling, |nano, |can u |"
    "could u |quick, |next, |then |do me a favor and |let's see if you can |see if you can |"
    "are you able to |my request: |it would be nice if you could |i was wondering if you could ]"
)
ASKING = re.compile(r"(can you|could you|would you|will you|can u|could u|are you able)")
OPEN_ASK = (
    "[||||||||hey, |hey |hi, |so, |ok, |ok so |quick question: |question: |"
    "please tell me, |tell me, |"
    "tell me: |i wonder, |do you know: |hello! |hmm, |now, |and |well, |hey "
    "nano, |next question: |"
    "can you tell me: |one more: |just wondering, |i forgot, |help me out, |excuse me, |sorry, ]"
)
CLOSE = "[|||||||||| please| please|, please| pls| for me| thanks|, thanks|, thank you| now|!]"

CLOSE_PAYLOAD = "[|||||||| please|, please| pls| for me|, thanks]"


def ask(rng: random.Random, forms: str, **slots: str) -> str:
    """Return a question: a random opening and one of the forms, augmented."""
    return augment(rng, expand(rng, OPEN_ASK) + fill(rng, forms, slots))


def do(rng: random.Random, forms: str, close: bool = True, **slots: str) -> str:
    """Return a request: a random opening, an imperative form, perhaps a closing, augmented.

    A form that starts with `~` is no imperative and gets the opening of a question.
    """
    text = fill(rng, forms, slots)
    opening = expand(rng, OPEN_ASK if text[0] == BARE else OPEN_DO)
    text = opening + text.removeprefix(BARE)
    ends_with_payload = text.endswith((END, END + '"', END + "'"))
    if close and text[-1] not in ".?!:":
        text += expand(rng, CLOSE_PAYLOAD if text.endswith(END) else CLOSE)
    if text[-1] not in ".?!" and (close or not ends_with_payload):
        if ASKING.search(opening):
            text += "?"
        elif rng.random() < 0.4:
            text += "."
    return augment(rng, text)


def _typo(rng: random.Random, word: str) -> str:
    i = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 1:
        return word[:i] + word[i + 1 :]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    return word[:i] + rng.choice("abcdefghijklmnopqrstuvwxyz") + word[i + 1 :]


def _misspell(rng: random.Random, text: str) -> str:
    words = re.split(r"(\W+)", text)
    spots = [i for i, w in enumerate(words) if len(w) >= 4 and w.isascii() and w.isalpha()]
    if spots:
        i = rng.choice(spots)
        words[i] = _typo(rng, words[i])
    return "".join(words)


def augment(rng: random.Random, text: str) -> str:
    """Write `text` as a hurried person might: case, punctuation, typos. Markers are removed."""
    lower = rng.random() < 0.4
    if not lower and rng.random() < 0.92:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.4 and text[-1] in ".?!" and len(text) > 1:
        text = text[:-1].rstrip(".?!") or text
    bare = rng.random() < 0.2
    slip = rng.random() < 0.18
    out = []
    parts = _SPLIT.split(text)
    target = rng.randrange(0, len(parts), 2) if slip else -1
    for i, part in enumerate(parts):
        if part.startswith(HARD):
            out.append(part[1:-1])
            continue
        if part.startswith(SOFT):
            part = part[1:-1]
            if rng.random() < 0.03 and len(part) > 4 and part.isalpha():
                part = _typo(rng, part)
        elif i == target:
            part = _misspell(rng, part)
        if bare:
            part = part.replace("'", "") if len(part) > 2 else part
        out.append(part.lower() if lower else part)
    return re.sub(r" {2,}", " ", "".join(out)).strip() if HARD not in text else "".join(out).strip()


def quoted(rng: random.Random, text: str) -> str:
    """Return the payload in one of the usual quotes."""
    marks = rng.choice(['""', '""', '""', "''", "''", "“”", "``"])
    return marks[0] + hard(text) + marks[1]
