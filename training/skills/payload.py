"""Random payloads: words, pseudo-words, names, phrases and numbers."""
# ruff: noqa: SIM905 - tables of words read better as text

import random

from training.words import ALL_WORDS, NAMES

_ONSET = (
    "b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl fr gl gr pl pr sh sl sn sp st th tr"
).split()
_VOWEL = "a e i o u a e i o ai ea ee oo ou".split()
_CODA = ["", "", "", "n", "r", "l", "s", "t", "m", "k", "p", "nd", "st", "ck", "rt", "x", "g", "d"]
COMMON = """
the a my your is are we you they it in on at to from with and or not very has have was will can
likes sees wants eats red big small old new good three two that this every
""".split()


def pseudo(rng: random.Random) -> str:
    """Return a word that does not exist, of one to three syllables."""
    count = rng.choice([1, 2, 2, 2, 3])
    return "".join(
        rng.choice(_ONSET) + rng.choice(_VOWEL) + rng.choice(_CODA) for _ in range(count)
    )


def letters(rng: random.Random) -> str:
    """Return a string of random letters."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 7)))


def word(rng: random.Random) -> str:
    """Return a lower-case word, mostly a real one."""
    r = rng.random()
    if r < 0.72:
        return rng.choice(ALL_WORDS)
    return pseudo(rng) if r < 0.95 else letters(rng)


def cased(rng: random.Random, text: str) -> str:
    """Return the text in lower case, capitalised or upper case."""
    r = rng.random()
    return text if r < 0.65 else text.capitalize() if r < 0.88 else text.upper()


def name(rng: random.Random) -> str:
    """Return a first name, sometimes an invented one."""
    return rng.choice(NAMES) if rng.random() < 0.65 else pseudo(rng).capitalize()


def sentence(rng: random.Random, count: int) -> str:
    """Return `count` words that look roughly like a sentence, without end mark."""
    words = [rng.choice(COMMON) if rng.random() < 0.4 else word(rng) for _ in range(count)]
    if rng.random() < 0.15:
        words[rng.randrange(count)] = str(rng.randint(0, 9999))
    if rng.random() < 0.15:
        words[rng.randrange(count)] = name(rng)
    if count > 3 and rng.random() < 0.2:
        spot = rng.randrange(count - 1)
        words[spot] += ","
    return " ".join(words)


def phrase(rng: random.Random) -> str:
    """Return a phrase to copy: one to eight words in some case, maybe with an end mark."""
    count = rng.choice([1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8])
    text = sentence(rng, count)
    r = rng.random()
    if r < 0.45:
        text = text[:1].upper() + text[1:]
    elif r < 0.55:
        text = text.upper()
    elif r < 0.6:
        text = text.title()
    r = rng.random()
    if r < 0.3:
        text += rng.choice([".", ".", "!", "?", "...", "!!"])
    return text


def code(rng: random.Random) -> str:
    """Return a short code such as PONG, A17 or blue-42."""
    r = rng.random()
    if r < 0.45:
        return (rng.choice(ALL_WORDS) if rng.random() < 0.6 else pseudo(rng)).upper()
    if r < 0.6:
        return rng.choice("ABCDEFGHKLMNPRSTXYZ") + str(rng.randint(1, 999))
    if r < 0.7:
        return f"{rng.choice(ALL_WORDS)}-{rng.randint(1, 99)}"
    if r < 0.8:
        return str(rng.randint(0, 99999))
    return cased(rng, word(rng))


def number(rng: random.Random) -> str:
    """Return a number of one to five digits."""
    return str(rng.randint(0, 10 ** rng.randint(1, 5) - 1))
