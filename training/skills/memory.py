"""Recall: facts a person states and asks for, at once or turns later."""

import random
from dataclasses import dataclass, replace

from training.phrasing import Turn, augment, expand, fill, hard
from training.skills import payload
from training.skills.sequence import UNKNOWN
from training.words import ALL_WORDS, CAPITALS, KINDS, NAMES

REMEMBER = "Okay, I will remember that."


@dataclass(frozen=True)
class Fact:
    """One kind of fact: how it is told, asked for and answered; `{v}` is the value."""

    name: str
    told: str
    asked: str
    answer: str


_ME = (
    "[what is|what's|whats|tell me|do you [know|remember]|say|what was|can "
    "you tell me|do you still know|repeat|please tell me|remind me of|you "
    "remember]"
)
FACTS = [
    Fact(
        "name",
        "[my name is {v}|my name is {v}|i am {v}|i'm {v}|call me {v}|you can call "
        "me {v}|i am called {v}|people call me {v}|my name's {v}|this is {v}|"
        "{v} is my name|please call me {v}|the name is {v}|they call me {v}|my "
        "first name is {v}|it's {v} here|everybody calls me {v}|my friends call "
        "me {v}|{v} here|i go by {v}|you can call me {v} from now on|everyone "
        "knows me as {v}|let me introduce myself, i am {v}|i should introduce "
        "myself: {v}|my parents named me {v}|{v} is what people call me|they "
        "named me {v}|the name's {v}|you are talking to {v}]",
        "[" + _ME + " my name[| again]?|who am i?|what am i called?|how am i called?|what did "
        "i say my name was?|what name did i tell you?|do you know who i am?|which "
        "name did i give you?|"
        "what do people call me?|my name is what?|and my name is?|what do you "
        "call me?|what should you call me?|what's the name i told you?|who are "
        "you talking to?|did you get my name?|"
        "have you remembered my name?|say my name.|what name did i give?|who am i "
        "again?|my name?|and what is my name?|could you remind me what my name "
        "is?|what is the name of the person you talk to?|do you recall my name?|"
        "what did i just tell you my name was?|what name did i just give you?|"
        "tell me what my name is|can you still tell me my name?|by the way, what "
        "name do i have?|what was my name?|how do people call me?|what is it that "
        "people call me?|what am i named?|what is the name i gave you?]",
        "Your name is {v}.",
    ),
    Fact(
        "color",
        "[my [favorite|favourite] [color|colour] is {v}|i like the [color|colour] "
        "{v}[| best| most]|i love [the color |the colour |]{v}|{v} is my "
        "[favorite|favourite] [color|colour]|"
        "the [color|colour] i like [best|most] is {v}|of all [colors|colours] i "
        "like {v} best|my best [color|colour] is {v}|i really like {v}|i prefer "
        "the [color|colour] {v}|remember my [color|colour]: {v}|remember the "
        "[color|colour] {v}|i am fond of {v}|nothing beats the [color|colour] {v}|"
        "if i had to pick a [color|colour], it would be {v}|i think {v} is the "
        "[best|prettiest|nicest] [color|colour]|i adore [the color |]{v}|"
        "remember that my [favorite|favourite] [color|colour] is {v}|my [color|"
        "colour] is {v}|the [color|colour] is {v}]",
        "["
        + _ME
        + " my [favorite |favourite |]color?|"
        + _ME
        + " my [favorite |favourite |]colour?|which [color|colour] do i like[| best|"
        " most]?|what [color|colour] do i like[| best| most]?|"
        "which [color|colour] did i [say|mention|tell you]?|what [color|colour] "
        "did i [say|mention|tell you|say i like]?|which is my [favorite|"
        "favourite] [color|colour]?|what was the [color|colour] i [like|told you|"
        "mentioned]?|"
        "my [favorite|favourite] [color|colour] is?|which [color|colour] is my "
        "[favorite|favourite]?|what [color|colour] is my [favorite|favourite]?|"
        "and my [favorite |favourite |][color|colour]?|what [color|colour] was "
        "it?|what is the [color|colour]?|what did i say my [favorite|favourite] "
        "[color|colour] was?|which [color|colour] did i tell you i like?|what "
        "[color|colour] did i say was my [favorite|favourite]?|which [color|"
        "colour] do i [prefer|love]?|tell me which [color|colour] i like|tell me "
        "what my [favorite|favourite] [color|colour] is|what [color|colour] am i "
        "fond of?|do you recall my [favorite |favourite |][color|colour]?]",
        "Your favorite color is {v}.",
    ),
    Fact(
        "number",
        "[my [|||lucky |favorite |favourite |secret |magic ]number is {v}|"
        "remember [the number |this number: |the number: |number ]{v}|the [|||"
        "secret |magic |lucky ]number is {v}|keep the number {v} in mind|"
        "[please |]remember that my [lucky |favorite |]number is {v}|{v} is my "
        "[lucky |favorite |favourite |]number|i am thinking of the number {v}|"
        "note the number {v}|i picked [the number |]{v}|"
        "don't forget the number {v}|memorize [the number |]{v}|save the number "
        "{v}|here is a number[| to remember]: {v}|my code is {v}|the code is {v}|"
        "{v} is my [lucky|favorite] number|my number of the day is {v}|please "
        "store the number {v}|i want you to remember the number {v}|can you "
        "remember the number {v} for me]",
        "[" + _ME + " [my|the] [|||lucky |favorite |favourite |secret |magic ]number?|which "
        "number did i [say|mention|tell you|give you|pick]?|what number did i "
        "[say|mention|tell you|give you|pick|ask you to remember|tell you to "
        "remember]?|"
        "what number should you remember?|which number was it?|what was the "
        "number[| i told you| i gave you| again]?|my number is?|and the number?|"
        "what number was it?|what is the number i told you?|do you recall the "
        "number?|which number did i ask you to keep in mind?|tell me the number i "
        "gave you|tell me which number i [said|gave you|told you]|what number did "
        "i just tell you?|what did i say my [lucky|favorite|favourite|secret] "
        "number was?|which number did i tell you?|what was that number?|what "
        "number did i want you to remember?|which number am i thinking of?|"
        "what number is my favorite?|what's the number i asked you to remember?|"
        "which number is my [lucky|favorite] one?|number?|[what is|what's|what "
        "was] [my|the] code?]",
        "The number is {v}.",
    ),
    Fact(
        "word",
        "[remember [the word |this word: |the word: ]{v}|the [|secret |magic |"
        "code ]word is {v}|my [secret |code |favorite |magic |]word is {v}|keep "
        "the word {v} in mind|don't forget the word {v}|the password is {v}|"
        "memorize the word {v}|my password is {v}]",
        "[" + _ME + " [my|the] [|||secret |magic |code ]word?|which word did i [say|tell you|"
        "give you]?|what word did i [say|tell you|ask you to remember|tell you to "
        "remember]?|what word should you remember?|what was the [word|password]?|"
        "what is [the|my] password?]",
        "The word is {v}.",
    ),
    Fact(
        "city",
        "[i live in {v}|i am from {v}|i'm from {v}|my home is in {v}|i come from "
        "{v}|my city is {v}|my home town is {v}|my hometown is {v}]",
        "[where do i live?|where am i from?|which city do i live in?|what is my "
        "[city|home town|hometown]?|where do i come from?|what city am i from?|do "
        "you remember where i live?|tell me where i live|where is my home?|do you "
        "know where i'm from?]",
        "You live in {v}.",
    ),
    Fact(
        "food",
        "[my [favorite|favourite] food is {v}|i like to eat {v}|i love eating {v}|"
        "{v} is my [favorite|favourite] food|the food i like best is {v}]",
        "[" + _ME + " my [favorite|favourite] food?|what do i like to eat?|which food do i "
        "like[| best]?|what food do i like[| most]?|my [favorite|favourite] food "
        "is?]",
        "Your favorite food is {v}.",
    ),
    Fact(
        "animal",
        "[my [favorite|favourite] animal is the {v}|my [favorite|favourite] "
        "animal is {v}|the animal i like best is the {v}|{v} is my [favorite|"
        "favourite] animal]",
        "[" + _ME + " my [favorite|favourite] animal?|which animal do i like[| best]?|what "
        "animal do i like[| most]?|my [favorite|favourite] animal is?]",
        "Your favorite animal is {v}.",
    ),
    Fact(
        "dog",
        "[my dog is called {v}|my dog's name is {v}|i have a dog named {v}|i have "
        "a dog called {v}|the name of my dog is {v}|my dog is named {v}]",
        "[what is my dog called?|"
        + _ME
        + " my dog's name?|what is the name of my dog?|how is my dog called?|what's "
        "my dog called?|who is my dog?|do you remember the name of my dog?]",
        "Your dog is called {v}.",
    ),
    Fact(
        "cat",
        "[my cat is called {v}|my cat's name is {v}|i have a cat named {v}|i have "
        "a cat called {v}|the name of my cat is {v}|my cat is named {v}]",
        "[what is my cat called?|"
        + _ME
        + " my cat's name?|what is the name of my cat?|how is my cat called?|what's "
        "my cat called?|who is my cat?|do you remember the name of my cat?]",
        "Your cat is called {v}.",
    ),
    Fact(
        "age",
        "[i am {v} years old|i'm {v} years old|my age is {v}|i am {v} now|i "
        "turned {v} today|i turned {v}]",
        "[how old am i?|"
        + _ME
        + " my age?|what age am i?|do you remember how old i am?|tell me how old i "
        "am]",
        "You are {v} years old.",
    ),
]
_LEAD = (
    "[||||||||||||hi, |hello, |hello! |hi! |hey, |so, |just so you know, |by "
    "the way, |fyi: |hi there, |good morning, |please remember: |remember: |"
    "note: |ok, |well, |for your information, ]"
)
_TAIL = (
    "[|||||||||||, please remember that|, remember that|, keep that in mind| "
    "- remember it|, don't forget it|, please keep it in mind|"
    " and please remember it|, ok?|, please remember it for later|. Remember "
    "that|. Please remember|, just so you know|. Don't forget|. Keep it in "
    "mind]"
)
_ASK_LEAD = (
    "[|||||||hey, |so, |now, |and |ok, |ok, now |tell me, |quick question: |"
    "question: |please, |hmm, |do you remember, |now tell me: |well, |after "
    "all that, |by the way, |last question: ]"
)


def value_of(rng: random.Random, fact: Fact) -> str:
    """Return a random value for a fact."""
    if fact.name in ("name", "dog", "cat"):
        name = payload.name(rng)
        return name.lower() if rng.random() < 0.2 else name
    if fact.name == "color":
        more = [
            "teal",
            "violet",
            "beige",
            "turquoise",
            "navy",
            "magenta",
            "lime",
            "olive",
            "cyan",
            "crimson",
            "dark blue",
            "light green",
        ]
        return rng.choice(KINDS["colors"] + more)
    if fact.name == "number":
        return payload.number(rng)
    if fact.name == "word":
        return payload.code(rng)
    if fact.name == "city":
        return (
            rng.choice(list(CAPITALS.values()) + KINDS["cities"])
            if rng.random() < 0.7
            else payload.pseudo(rng).capitalize()
        )
    if fact.name == "food":
        return rng.choice(KINDS["foods"] + KINDS["fruits"] + KINDS["desserts"])
    if fact.name == "animal":
        return rng.choice(KINDS["animals"] + KINDS["birds"])
    return str(rng.randint(3, 99))


def _shown(rng: random.Random, value: str) -> str:
    return f'"{hard(value)}"' if rng.random() < 0.06 else hard(value)


def pick_fact(rng: random.Random) -> Fact:
    """Return a fact. The three on which the model is scored come most often."""
    return rng.choice(FACTS[:3]) if rng.random() < 0.7 else rng.choice(FACTS)


def tell(rng: random.Random, facts: list[tuple[Fact, str]]) -> Turn:
    """Return the turn that states one or two facts."""
    parts = [fill(rng, f.told, {"v": _shown(rng, v)}) for f, v in facts]
    text = (
        expand(rng, _LEAD)
        + rng.choice([" and ", ", ", ". ", " and "]).join(parts)
        + expand(rng, _TAIL)
    )
    text += rng.choice([".", ".", "!", ""])
    names = [v for f, v in facts if f.name == "name"]
    answer = f"Nice to meet you, {names[0]}!" if names else REMEMBER
    user = augment(rng, text)
    return Turn("recall", user, answer, user)


_ACKNOWLEDGED = (
    "[[Got it|Noted|Okay|Ok|Sure|Alright|All right|Understood|Great|Nice|I see|Thanks|Thank you|"
    "Fine|Good to know|Will do|Of course|No problem|Cool|Perfect|Lovely]"
    "[.|!|, thanks.|, noted.]|"
    "[Okay, |]I [will|'ll] [remember|keep|note] [it|this|that][| in mind| down].|"
    "That is [a nice one|good to know|lovely|nice].|[Thanks|Thank you] for telling me.|"
    "How [nice|interesting]!|{v}, [got it|noted|okay].|[Hi|Hello|Hey|Welcome] there!|"
    "It is [nice|good] to [meet|see] you.|I have noted it.]"
)


def acknowledged_otherwise(rng: random.Random, turns: list[Turn]) -> list[Turn]:
    """Half of the acknowledgements in other words, as if another assistant had given them."""
    return [
        replace(turn, answer=_other_words(rng, turn), is_given=True)
        if turn.answer.startswith((REMEMBER, "Nice to meet you")) and rng.random() < 0.5
        else turn
        for turn in turns
    ]


def _other_words(rng: random.Random, turn: Turn) -> str:
    name = turn.answer.removeprefix("Nice to meet you, ").rstrip("!")
    value = name if turn.answer != REMEMBER else "Yes"
    return fill(rng, _ACKNOWLEDGED, {"v": value})


def recall(rng: random.Random, fact: Fact, value: str) -> Turn:
    """Return the turn that asks for a fact told before."""
    user = augment(rng, expand(rng, _ASK_LEAD) + expand(rng, fact.asked))
    check = {"kind": "contains_all", "values": [value]}
    return Turn("recall", user, fact.answer.format(v=value), f"{fact.name} {value} {user}", check)


def tell_and_ask(rng: random.Random) -> Turn:
    """Return a turn with a fact and a question for it."""
    fact = pick_fact(rng)
    value = value_of(rng, fact)
    told = fill(rng, fact.told, {"v": _shown(rng, value)})
    asked = expand(rng, fact.asked)
    if rng.random() < 0.3:
        other = rng.choice([f for f in FACTS if f is not fact])
        extra = fill(rng, other.told, {"v": hard(value_of(rng, other))})
        told = rng.choice([f"{told} and {extra}", f"{extra} and {told}", f"{extra}. {told}"])
    glue = rng.choice([". ", ". ", ". ", "! ", ", ", ".\n", " - "])
    user = augment(
        rng,
        expand(rng, _LEAD)
        + told
        + glue
        + (asked[0].upper() if glue[0] in ".!" else asked[0])
        + asked[1:],
    )
    check = {"kind": "contains_all", "values": [value]}
    return Turn("recall", user, fact.answer.format(v=value), user, check)


def not_told(rng: random.Random) -> Turn:
    """Return a question for a fact that was never told."""
    fact = rng.choice(FACTS[:3]) if rng.random() < 0.5 else rng.choice(FACTS)
    user = augment(rng, expand(rng, _ASK_LEAD) + expand(rng, fact.asked))
    return Turn("unknown", user, UNKNOWN, user)


SOME_WORDS = ALL_WORDS + NAMES
