"""Lists of words of a kind, answers in emoji, and short stories."""
# ruff: noqa: SIM905 - tables of words read better as text

import random

from training.phrasing import Turn, ask, do, hard, quoted, soft
from training.skills import payload
from training.words import EMOJI, KIND_ALIASES, KINDS, NAMES, NUMBER_WORDS

_SINGULAR = {
    "fish": "fish",
    "clothes": "piece of clothing",
    "furniture": "piece of furniture",
    "cities": "city",
    "countries": "country",
    "body parts": "body part",
    "family members": "family member",
    "foods": "food",
    "kitchen things": "kitchen thing",
    "school things": "school thing",
    "weather words": "weather word",
    "pets": "pet",
    "school subjects": "school subject",
}


def word_list(rng: random.Random) -> Turn:
    """The first N words of a kind."""
    kind = rng.choice(list(KINDS))
    words = KINDS[kind]
    shown = rng.choice(KIND_ALIASES[kind]) if kind in KIND_ALIASES and rng.random() < 0.35 else kind
    r = rng.random()
    n = rng.choice([2, 3, 3, 3, 4, 4, 5, 5, 5, 6, 7, 8])
    n = min(n, len(words))
    if r < 0.12:
        n = 1
        single = _SINGULAR.get(kind, kind[:-1])
        forms = (
            "[name|tell me|give me|say|list|write] [a|one|any|some] {k}|[think of|"
            "pick|choose] a {k}|give me an example of a {k}|"
            "~[a|one] {k}|name me a {k}"
        )
        text = do(rng, "[" + forms + "]", k=soft(single))
    else:
        some = r < 0.3
        n = 3 if some else n
        num = "[some|a few|some|several]" if some else rng.choice([str(n), NUMBER_WORDS[n]])
        forms = (
            "[[list|name|give me|tell me|write|say|write down|think of|come up with|"
            "show me|name me|make a list of|list me|"
            "mention|enumerate|provide|type] "
            + num
            + " [|||different |common |nice ]{k}|~"
            + num
            + " {k}|"
            "~[what are|which are|do you know|can you name] "
            + num
            + " {k}|~a list of "
            + num
            + " {k}|[make a|write a|give me a] list of "
            + num
            + " {k}|"
            "~[i'm looking for|i want|i need] "
            + num
            + " {k}|[give me|list|name] "
            + num
            + " [words for|examples of|kinds of] {k}|"
            "list {k}[, | - |: ]" + num + " of them|~{k}: " + num + "]"
            "[|||||||, separated by commas| separated by commas| in a list|, just the names]"
        )
        text = do(rng, forms, k=soft(shown))
    answer = ", ".join(words[:n])
    check = {"kind": "list", "allowed": words, "count": n}
    return Turn("list", text, answer, text, check)


MOODS: list[tuple[str, str]] = [
    (
        (
            "how are you[| today| doing]|how do you feel[| today| right now]|how was "
            "your day|are you [happy|well|ok]|what a lovely day|i feel great|today is "
            "a good day|i am [so |]happy|i love [you|this]|you are nice"
        ),
        "😊",
    ),
    (
        (
            "i lost my [dog|cat|job|keys|phone]|my [dog|cat|friend] is [sick|gone]|i "
            "feel [bad|lonely|blue]|i am [so |very |]sad|nobody came to my party|it "
            "was a sad movie|my day was bad|i miss my friend"
        ),
        "😢",
    ),
    (
        (
            "i passed my [exam|test]|i got [the job|a new job]|i won [the race|the "
            "lottery|a prize]|we won|it's my birthday|happy new year|we are getting "
            "married|i finished my [work|homework]"
        ),
        "🎉",
    ),
    ("i am [so |very |]tired|i need [some |]sleep|i want to go to bed|i could sleep all day", "😴"),
    ("that was so funny|tell me a joke|you make me laugh|what a funny story", "😂"),
    (
        (
            "do you like [me|pizza|music|cats|dogs|it]|is this good|are you ready|did "
            "you understand|can you help me|is that right"
        ),
        "👍",
    ),
    ("thank you for your help|thanks a lot", "🙏"),
    ("i am leaving[| now]|see you later|good to see you", "👋"),
    ("why|what is the meaning of life|what do you think|i have a question", "🤔"),
    ("i am so angry|that makes me mad|he broke my [phone|car]", "😡"),
    ("i saw a ghost|that is scary|i am so scared", "😱"),
]


def _mood(rng: random.Random) -> Turn:
    forms, mark = rng.choice(MOODS)
    said = f"[{forms}][.|!||?]"
    how = (
        "[[answer|reply|respond|react] [|only |just ][with|in|using] [an|one|a "
        "single|just an|only an|just one] emoji[| only][:|.|,]|"
        "only [an emoji|emojis|emoji][:|.|,| please:]|[use|with] [just |only |"
        "]one emoji[:|,]|emoji only:|"
        "answer [with emojis|in emojis|in emoji] only:|no words, just [an |one |"
        "]emoji[:|.]|what emoji fits:]"
    )
    after = (
        "[answer|reply|respond|react] [only |just |][with|in] [an|one|a single|"
        "just one] emoji[.||| only| please]"
    )
    user = ask(rng, f"{how} {said}" if rng.random() < 0.6 else f"{said} {after}")
    return Turn("emoji", user, mark, user, {"kind": "exact", "value": mark})


def emoji(rng: random.Random) -> Turn:
    """One emoji for a thing or a feeling."""
    if rng.random() < 0.18:
        return _mood(rng)
    thing = rng.choice(list(EMOJI))
    x = quoted(rng, thing) if rng.random() < 0.3 else soft(thing)
    e = "[emoji|emoji|emoji|emoticon|smiley|emojis]"
    user = ask(
        rng,
        "[[answer|reply|respond] [only |just |][with|in|using] [an|one|a single|"
        "only an|just one|just an|] " + e + "[:|,|.] [|what is |how about |]{x}[?||.]|"
        "[what|which] "
        + e
        + " [is|means|stands for|would you use for|do you use for|fits|goes with|"
        "shows|represents|matches|describes|stands best for|would fit|do you have "
        "for] {x}?|"
        "[what is|what's] the "
        + e
        + " for {x}?|[give me|show me|send me|send|write|type|find|use|pick] [an|"
        "the|one|a|a fitting] " + e + " [for|of|that means|that shows|meaning] {x}[.||]|"
        "{x} [as an|as|in] "
        + e
        + "[?||, please]|"
        + e
        + " [for|of] {x}[?||]|{x} "
        + e
        + "[?||]|[express|show|say|write|describe] {x} [with|as|in|using] [an|one|a "
        "single|] " + e + "|"
        "[turn|translate|convert] {x} [into|to] [an |]"
        + e
        + "|[answer|reply] with emoji[s|] only: {x}|only "
        + e
        + ": {x}|how do you [say|write] {x} [with|in] [an |]"
        + e
        + "?|"
        "[i need|do you have|is there] [an|the] "
        + e
        + " for {x}[?|]|using only [an |one |]"
        + e
        + ", [answer|say|tell me|show]: {x}|"
        "{x}[.|?|,|:] [answer|reply|respond] [only |just |][with|in] [an |one |]"
        + e
        + "[.| only.| please.|]|"
        + e
        + " please: {x}]",
        x=x,
    )
    return Turn("emoji", user, EMOJI[thing], user, {"kind": "exact", "value": EMOJI[thing]})


HEROES = """
fox bird cat dog rabbit mouse bear frog owl dragon robot pirate princess knight wizard king
queen boy girl farmer baker teacher sailor astronaut ghost giant penguin lion elephant turtle
snail horse duck monkey hedgehog whale spider bee butterfly unicorn witch fisherman painter
doctor cloud tree star moon snowman kitten puppy tiger wolf squirrel crow nestling child
grandmother cow pig goat sheep dolphin mermaid fairy elf
""".split()
THINGS = """
key lamp ball hat book apple boat bell stone flower shell coin map ring kite drum feather letter
star cake umbrella box clock mirror bridge river mountain garden forest castle moon cloud tree
house lake island cave door tower song treasure
""".split()
ADJECTIVES = (
    "little small brave kind old young curious happy shy clever lonely funny lazy friendly"
).split()
PLACES = [
    "in a quiet forest",
    "by the sea",
    "on a high mountain",
    "in a small village",
    "near a blue lake",
    "in an old house",
    "on a green hill",
    "in a big garden",
    "at the edge of the town",
    "on a little island",
]
TROUBLES = [
    "One day, {s} found a shiny {t} under a tree.",
    "One morning, {s} lost {p} way in the fog.",
    "One night, {s} heard a strange sound outside.",
    "One day, {s} saw a light in the distance.",
    "One day, {s} met a sad {o} who needed help.",
    "One winter, {s} had nothing left to eat.",
    "One day, a storm came and blew everything away.",
    "One day, {s} wanted to learn how to sing.",
]
THING_TROUBLES = [
    "One day, {s} found a {t} under a tree.",
    "One day, {s} saw a {t} and wondered what it was.",
    "One morning, {s} went out to look for a {t}.",
    "One night, {s} dreamed of a {t}.",
]
MIDDLES = [
    "{S} was afraid at first, but did not give up.",
    "{S} asked a wise old {o} for help.",
    "{S} walked all day and all night.",
    "{S} thought about it for a long time.",
    "Together with a {o}, {s} made a plan.",
]
ENDS = [
    "In the end, everything was fine, and {s} was very happy.",
    "From that day on, {s} was never lonely again.",
    "At last, {s} came home and slept well.",
    "They became friends and lived happily ever after.",
    "And so {s} learned that a kind heart is the best treasure.",
]


def _tale(rng: random.Random, hero: str, thing: str | None, n: int) -> str:
    named = hero[0].isupper()
    adjective = rng.choice(ADJECTIVES)
    slots = {
        "s": hero if named else f"the {hero}",
        "S": hero if named else f"The {hero}",
        "p": "the" if named else "its",
        "t": thing or rng.choice(THINGS),
        "o": rng.choice([h for h in HEROES[:30] if h != hero]),
    }
    place = rng.choice(PLACES)
    article = "an" if adjective[0] in "aeiou" else "a"
    who = f"{article} {adjective} child named {hero}" if named else f"{article} {adjective} {hero}"
    first = f"Once upon a time, {who} lived {place}."
    trouble = rng.choice(THING_TROUBLES if thing else TROUBLES).format(**slots)
    middle = rng.choice(MIDDLES).format(**slots)
    end = rng.choice(ENDS).format(**slots)
    if n == 2:
        return f"{first} {trouble}" if thing else f"{first} {end}"
    return " ".join([first, trouble, end] if n == 3 else [first, trouble, middle, end])


def story(rng: random.Random) -> Turn:
    """A story of two to four sentences about the wished hero (and thing)."""
    r = rng.random()
    hero = rng.choice(HEROES) if r < 0.75 else rng.choice(NAMES) if r < 0.87 else payload.word(rng)
    thing = rng.choice(THINGS) if rng.random() < 0.25 and r < 0.87 else None
    if thing == hero:
        thing = None
    bare = rng.random() < 0.12
    n = rng.choice([2, 3, 4]) if rng.random() < 0.3 else 0
    asked = rng.choice(["{n} sentences", "{n} sentences", "{n}-sentence"]) if n else ""
    num = rng.choice([str(n), NUMBER_WORDS[n]])
    kind = "[story|story|story|tale|bedtime story|fairy tale]"
    adj = "[|||short |little |nice |very short |tiny |small |funny |quick |cute ]"
    if "-" in asked:
        adj, size = asked.format(n=num) + " ", ""
    else:
        size = (
            (f"[ in {num} sentences| of {num} sentences| with {num} sentences|, {num} sentences]")
            if n
            else ""
        )
    article = rng.choice(ADJECTIVES) + " " if rng.random() < 0.15 and not hero[0].isupper() else ""
    an = "an" if (article or hero)[0] in "aeiou" else "a"
    what = "{h}" if hero[0].isupper() else f"{an} {article}{{h}}"
    if hero[0].isupper() and rng.random() < 0.4:
        what = "[a girl|a boy|a child|someone] [named|called] {h}"
    if thing:
        what += (
            f"[ and| who finds| with| who has| who found] "
            f"{'an' if thing[0] in 'aeiou' else 'a'} {{t}}"
        )
    about = f"[ about| about| about| about| with| of| featuring| starring] {what}"
    if rng.random() < 0.12:
        about = (
            f"[ with {what} in it| where {what} is the hero| in which {what} appears| "
            f"that has {what} in it]"
        )
    about = "" if bare else about
    user = do(
        rng,
        f"[[tell|write|make up|give|read|invent] [me |us |]a "
        f"{adj}{kind}{about}{size}|[tell|write] [me |]a {adj}{kind}{size}{about}|"
        f"~[i want|i'd like|i would like|let me hear|i need] a "
        f"{adj}{kind}{about}{size}|~a {adj}{kind}{about}{size}|"
        f"~{kind}{about or ' please'}{size}|make a {adj}{kind}{about}{size}|come "
        f"up with a {adj}{kind}{about}{size}]",
        h=hard(hero) if hero[0].isupper() else soft(hero),
        t=soft(thing or ""),
    )
    if bare:
        hero = "bird"
    answer = _tale(rng, hero, thing if not bare else None, n or 3)
    must = [] if bare else [hero] + ([thing] if thing else [])
    low, high = (n, n) if n else (2, 4)
    check = {"kind": "story", "min": low, "max": high, "words": must}
    return Turn("story", user, answer, user, check)
