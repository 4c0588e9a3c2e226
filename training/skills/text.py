"""Skills on text itself: copy, repeat, upper case, spelling, the longer word, JSON."""
# ruff: noqa: SIM905 - tables of words read better as text

import json
import random

from training.phrasing import Turn, ask, do, hard, quoted
from training.skills import payload
from training.words import ALL_WORDS, NUMBER_WORDS

_COPY_VERB = (
    "[repeat|say|copy|write|echo|print|output|type|reply with|respond with|answer with|say back|"
    "repeat back|write down|give me back|return|say exactly|repeat exactly|copy exactly]"
)


def copy(rng: random.Random) -> Turn:
    """Repeat a phrase exactly."""
    text = payload.phrase(rng)
    form = rng.random()
    if form < 0.4:
        user = do(
            rng,
            _COPY_VERB + "[| this| the following| exactly| the words| the text| the phrase|"
            " the sentence| only| back to me| after me| exactly this| this text| this "
            "sentence| this exactly|"
            " the exact words| word for word| the string| the word][|:] {x}"
            "[|||| exactly| and nothing else| exactly as it is| word for word| "
            "without changing anything|"
            " back to me| once|, nothing more|. Nothing else.| without the quotes]",
            x=quoted(rng, text),
        )
    elif form < 0.8:
        user = do(
            rng,
            "[" + _COPY_VERB + "[| this| the following| exactly| after me| exactly this| this text|"
            " this sentence| this phrase| the following text| the following sentence| "
            "word for word|"
            " the following words| this exactly| only this| exactly as i wrote it| "
            "this exactly as written| this back to me| this, word for word| this back "
            "to me, word for word| exactly as written| this one more time| this "
            "without changes| back]:[ |\n| ]|repeat after me[:|,|.|:] |say: |"
            "copy: |echo: |repeat: |copy this line: |parrot this: |print exactly: ]{x}",
            close=False,
            x=hard(text),
        )
    elif form < 0.9:
        user = do(rng, "[say|repeat|echo|write|type|copy] {x}", close=False, x=hard(text))
    else:
        user = do(
            rng,
            "~[here is a [sentence|phrase|text|line]: {x}[.|\n| -] [Copy|Repeat|Echo] "
            "it[| exactly| back].|"
            "{x} - [repeat|copy|say] that[| exactly| back to me].|"
            "what I want you to say is {x}.|{x}\n[Repeat|Copy] [this|the line above|"
            "that][| exactly].]",
            x=quoted(rng, text),
        )
    return Turn("copy", user, text, text)


def count_forms(rng: random.Random, n: int) -> str:
    """`n` times, in digits or words."""
    forms = [
        f"{n} times",
        f"{n} times",
        f"{n} times",
        f"{NUMBER_WORDS[n]} times",
        f"{n}x",
        f"exactly {n} times",
    ]
    if n == 1:
        forms = ["once", "one time", "1 time"]
    elif n == 2:
        forms += ["twice"]
    return rng.choice(forms)


def repeat(rng: random.Random) -> Turn:
    """Repeat a word N times."""
    word = payload.cased(rng, payload.word(rng))
    n = rng.choice([2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10])
    times = count_forms(rng, n)
    x = quoted(rng, word) if rng.random() < 0.45 else hard(word)
    commas = rng.random() < 0.25
    tail = (
        "[, separated by commas| separated by commas| with commas between|, comma "
        "separated| with commas]"
        if commas
        else "[||||||, separated by spaces| in a row| with spaces between| on one line]"
    )
    user = do(
        rng,
        "[[say|repeat|write|print|type|output|echo|give me|write out|put] [|||the "
        "word |the word ]{x} {t}|"
        "[repeat|say|write|type] {t}[:|] {x}|[say|write|repeat|type] {x}, {t}|"
        "~i [want|would like] to [see|hear] [the word |]{x} {t}|~can i get {x} "
        "{t}|say {x}, {t}[| in a row]|[say|write|repeat] [the word |]{x} [for me |"
        "]{t} [in a row|in total]|[give|show] me [the word |]{x} {t}|~{t} [the "
        "word |]{x}|[repeat|write] the word {x} {t}|~{x} {t}]" + tail,
        x=x,
        t=times,
    )
    joined = (", " if commas else " ").join([word] * n)
    return Turn("repeat", user, joined, f"{word} {n}")


def upper(rng: random.Random) -> Turn:
    """Upper (now and then lower) case."""
    text = payload.sentence(rng, rng.choice([1, 1, 1, 1, 2, 2, 3, 4, 5])).strip(",")
    low = rng.random() < 0.15
    if low:
        text = text.upper() if rng.random() < 0.6 else text.title()
    elif rng.random() < 0.3:
        text = text.capitalize()
    x = quoted(rng, text) if rng.random() < 0.5 else hard(text)
    how = (
        "[lowercase|lower case|small letters|lowercase letters]"
        if low
        else "[uppercase|upper case|capitals|capital letters|all caps|all capitals|"
        "block letters|caps|"
        "uppercase letters|upper-case letters|all uppercase|big letters|ALL CAPS|"
        "UPPERCASE|all capital letters]"
    )
    verb = "[write|put|say|print|give me|type|repeat|spell out|show|output|write out|return]"
    user = do(
        rng,
        "[" + verb + " [|the word |the text |this |]{x} in " + how + "|"
        "[convert|change|turn|transform|switch] [|the word |the phrase |this |"
        "]{x} [to|into] "
        + how
        + "|"
        + (
            ""
            if low
            else "[capitalise|capitalize|uppercase] [every letter|all [the |]letters] [in|of] {x}|"
        )
        + "[make|write|put] [this|it] [all |]in "
        + how
        + ": {x}|[turn|convert|put|change] this [to|into] "
        + how
        + ": {x}|"
        "[give me|show me] {x} [written |]in "
        + how
        + "|"
        + verb
        + " in "
        + how
        + ", please: {x}|in "
        + how
        + " [please |]write[:|] {x}|~"
        + how
        + " version of {x}|[change|switch|convert|rewrite] {x} so that it is in "
        + how
        + "|"
        "[make|turn] {x} [all |]"
        + ("[lowercase|lower case]" if low else "[uppercase|upper case|caps|capital]")
        + "|"
        + "~"
        + how
        + "[:|: |, please:] {x}|"
        + ("lowercase" if low else "[uppercase|capitalize|upcase|shout|uppercase the word]")
        + " {x}|"
        "~[what is|how do you write|how would you write|what does] {x}[| look "
        "like] in "
        + how
        + "|"
        + verb
        + " in "
        + how
        + "[:|] {x}|"
        + verb
        + " [this|the following] in "
        + how
        + ": {x}|~{x} in "
        + how
        + "]",
        x=x,
    )
    return Turn("upper", user, text.lower() if low else text.upper(), text)


def spell(rng: random.Random) -> Turn:
    """Letters of a word joined by hyphens."""
    word = payload.word(rng) if rng.random() < 0.85 else payload.name(rng)
    word = word if rng.random() < 0.75 else word.capitalize()
    word = word[:12]
    x = quoted(rng, word) if rng.random() < 0.45 else hard(word)
    user = do(
        rng,
        "[spell [|||the word |the word |out |out the word ]{x}[||||, letter by "
        "letter| letter by letter]"
        "[| with hyphens| with hyphens| with hyphens between the letters| using hyphens|"
        ", separated by hyphens| with dashes| with a hyphen between each letter|, "
        "letters separated by hyphens|"
        " with hyphens between letters| hyphenated|, put hyphens between the letters]|"
        "~how is {x} spelled?|~[how do you spell|how would you spell|what is the "
        "spelling of|give me the "
        "spelling of|tell me how to spell|show me how to spell] {x}[| with hyphens]|"
        "[write|type|give me|say|print] [|the word |the letters of ]{x} [letter "
        "by letter[| with hyphens]|with hyphens "
        "between [the|all|its|all the] letters|with a hyphen between [the letters|"
        "each letter|every letter]|"
        "separated by hyphens|one letter at a time]|[break|split] {x} into [its |"
        "]letters[| with hyphens]|"
        "[join|separate|connect] the letters of {x} [with|by] [hyphens|dashes]|"
        "[say|give me|list|write] the letters [of|in] {x}[,|] [joined by|"
        "separated by|with|connected with] [hyphens|dashes|a hyphen]|hyphenate "
        "the letters of {x}|"
        "spell {x} [for me|please|now][,|] [with|using] [dashes|hyphens]|go "
        "letter by letter through {x}[| with hyphens]|~what letters are in {x}?|"
        "~which letters make up {x}?|spell {x} one letter at a time|[write|spell] "
        "{x} with a [dash|hyphen] [between|after] each letter|"
        "put [hyphens|dashes|a hyphen] between the letters of [|the word ]{x}|"
        "~spelling of {x}|~{x}, spelled [out |][with hyphens|letter by letter]|"
        "spell: {x}|spell it: {x}]",
        x=x,
    )
    return Turn("spell", user, "-".join(word), word)


def longer(rng: random.Random) -> Turn:
    """The longer (now and then the shorter) of two words."""
    gap = 1 if rng.random() < 0.15 else 2
    while True:
        real = rng.random() < 0.9
        a, b = (rng.choice(ALL_WORDS) if real else payload.pseudo(rng) for _ in range(2))
        if abs(len(a) - len(b)) >= gap:
            break
    if rng.random() < 0.15:
        a, b = a.capitalize(), b.capitalize()
    short = rng.random() < 0.12
    if rng.random() < 0.35:
        mark = rng.choice(['""', "''"])[0]
        xa, xb = mark + hard(a) + mark, mark + hard(b) + mark
    else:
        xa, xb = hard(a), hard(b)
    adj, sup = (
        ("[shorter|shorter|smaller]", "shortest")
        if short
        else ("[longer|longer|longer|bigger]", "longest")
    )
    has = "fewer" if short else "more"
    extra = (
        "[is {a} longer or {b}|is {a} or {b} longer|tell me the longest: {a} or "
        "{b}|which one's longer, {a} or {b}|"
        "which has more letters: {a} or {b}|{a} or {b}, what's longer|what is "
        "longer, {a} or {b}]?"
    )
    user = ask(
        rng,
        extra
        if not short and rng.random() < 0.2
        else "[which [|word |one |of these words |of the two words |of these |word of "
        "the two ]is "
        + adj
        + "[|:|,| -|?] {a} or {b}?|what is the "
        + adj
        + " word[:|,|] {a} or {b}?|{a} or {b}[:|,|?|] "
        "which [|one |word ]is "
        + adj
        + "?|[pick|choose|tell me|give me|say|name|find|select] the "
        + adj
        + " word[|:|,| of] {a} [or|and] {b}.|which [|word ]has "
        + has
        + " letters[,|:|] {a} or {b}?|"
        "is {a} "
        + adj
        + " than {b} or is {b} "
        + adj
        + "?|between {a} and {b}, which [|word |one ]is "
        + adj
        + "?|out of {a} and {b}[,|] which [|word ]is [the |]"
        + adj
        + "?|"
        + adj
        + " word[:|] {a} or {b}?|"
        "which is the ["
        + sup
        + "|"
        + adj
        + "] [word|one][:|,|] {a} or {b}?|of the words {a} and {b}, which is "
        + adj
        + "?|which [one |word |]is "
        + adj
        + ", {a} or {b}?|compare {a} and {b}. Which is "
        + adj
        + "?]",
        a=xa,
        b=xb,
    )
    answer = min(a, b, key=len) if short else max(a, b, key=len)
    return Turn("longer", user, answer, " ".join(sorted([a, b])))


KEYS = """
name age city color country animal food job id title year size price count type status email
level score team weight height author book day month fruit language user code pet hobby speed
active tag lang brand model width x y a b key value
""".split()


def json_object(rng: random.Random) -> Turn:
    """A small JSON object from given keys and values."""
    n = rng.choice([1, 1, 2, 2, 2, 3, 3])
    keys = [k if rng.random() < 0.8 else payload.word(rng) for k in rng.sample(KEYS, n)]
    keys = list(dict.fromkeys(keys))
    values: list[str | int] = []
    for k in keys:
        r = rng.random()
        if k in (
            "age",
            "year",
            "price",
            "count",
            "size",
            "id",
            "score",
            "level",
            "weight",
            "height",
            "x",
            "y",
        ):
            r = 0.0 if rng.random() < 0.9 else r
        elif k in ("name", "author", "user"):
            r = 0.4
        values.append(
            rng.randint(0, 10 ** rng.randint(1, 4) - 1)
            if r < 0.35
            else payload.name(rng)
            if r < 0.6
            else payload.word(rng)
        )
    pairs = [(hard(k), hard(str(v))) for k, v in zip(keys, values, strict=True)]
    if rng.random() < 0.2:
        pairs = [(f'"{k}"', v if v[1:-1].isdigit() else f'"{v}"') for k, v in pairs]
    item = rng.choice(
        ["{} {}", "{}: {}", "{}={}", "{} = {}", "{} set to {}", "{} is {}", "{} being {}"]
    )
    items = [item.format(k, v) for k, v in pairs]
    last = rng.choice([" and ", " and ", ", ", ", and "])
    listed = items[0] if len(items) == 1 else ", ".join(items[:-1]) + last + items[-1]
    obj = (
        "[[|a |a ][small |little |simple |]json[| object| object|]|a json object|"
        "an object in json|json|a JSON|"
        "a JSON object|valid JSON]"
    )
    if len(keys) > 1 and rng.random() < 0.25:
        ks, vs = [p[0] for p in pairs], [p[1] for p in pairs]
        slots = {
            "k": ", ".join(ks[:-1]) + " and " + ks[-1],
            "v": ", ".join(vs[:-1]) + " and " + vs[-1],
        }
        forms = (
            "[[make|create|write|give me|build|return|produce] "
            + obj
            + " with [the |]keys {k} and [the |]values {v}|[make|create|write|build] "
            + obj
            + "[. Keys|, keys|: keys|; keys][:|] {k}[.|;|,] [Values|values][:|] {v}|"
            "[use|take] the keys {k} and the values {v} [in|for] a json[ object|]]"
        )
    elif len(keys) == 1 and rng.random() < 0.35:
        slots = {"k": pairs[0][0], "v": pairs[0][1]}
        forms = (
            "[make|create|write|give me|build|return] "
            + obj
            + " [with|where|that has|with one key,] [the |]"
            "[key|field] {k} [and [the |]value|set to|with [the |]value|having the value] {v}"
        )
    else:
        slots = {"i": listed}
        forms = (
            "[[make|create|write|give me|build|return|produce|generate|output|print|"
            "reply with|show me|"
            "construct] "
            + obj
            + " [with|with|with the fields|where|containing|for|that has|from|that says|"
            "with these keys and values:|with the keys and values|holding|for this:|of] {i}|"
            "[put|write|format|turn|convert|give me|express|encode] [this|these|the "
            "following][|:] {i}[|,] "
            "[into|as|in] [json|JSON|a JSON object]|~[as|in] json[:|,] {i}|~json[:|] "
            "{i}|~{i} as json|"
            "turn {i} into [a |]json[| object]|[write|put] {i} [as|in] [json|JSON]]"
        )
    user = do(rng, forms, True, **slots)
    user = user.replace("json", rng.choice(["JSON", "JSON", "json", "Json"]))
    obj_value = dict(zip(keys, values, strict=True))
    answer = json.dumps(obj_value, ensure_ascii=False)
    return Turn("json", user, answer, answer, {"kind": "json", "value": obj_value})
