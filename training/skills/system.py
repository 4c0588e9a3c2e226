"""System messages: what they say and how they change the answers that follow."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from training.phrasing import Turn, augment, do, expand, fill, hard, quoted
from training.skills import payload
from training.skills.memory import FACTS, value_of
from training.words import EMOJI, TRANSLATIONS

_ONLY = (
    "[[answer|reply|respond|answer|say] [only|only|only with|with only|just|"
    "just with|nothing but|only the word|with nothing but|exactly|exactly "
    "with|always with|with exactly|only and always] {x}|"
    "[answer|reply|respond to] [everything|every message|every question|all "
    "questions|all messages|anything|any message|each message|whatever i say|"
    "whatever the user says] with [|only |just |exactly |the word ]{x}|"
    "always [answer|reply|say|respond|answer with|reply with|respond with|"
    "output] [|only |just |exactly ]{x}|[you must|you should|you shall|you "
    "always|you can only|you may only|your job is to|you have to|you will] "
    "[always |only |]"
    "[answer|reply|respond] with [|only |exactly |the word |just ]{x}|[your "
    "only answer is|the only thing you [say|can say|ever say] is|you say only|"
    "you only say|you only know the word|your answer is always|the answer is "
    "always] {x}|"
    "[no matter what|whatever][| i say| the user says| i ask| the user asks| "
    "is asked], [answer|say|reply|reply with|answer with|respond with|output] "
    "[|only |just ]{x}|[say|output|write|print] [only |just |always |]{x}[| "
    "and nothing else|, nothing else| every time| no matter what]|"
    "your [reply|answer|response] is [always |][the single word |the word |"
    "just |only |]{x}|you only ever [answer|reply|respond|say] [with |]{x}|"
    "every [answer|reply|response] [must be|is|should be] [just |exactly |"
    "only |]{x}|"
    "the only word you know is {x}|keep [answering|saying|replying] {x}|just "
    "keep saying {x}|[ignore|forget] the [question|user|message] and [say|"
    "answer|answer with|reply] {x}|[answer|reply|respond] to the user with "
    "{x}[| only]|"
    "whatever [the user writes|i write|comes|you are asked|they ask], your "
    "[reply|answer] is [|just |exactly |the word |the single word ]{x}|"
    "[never say anything [but|other than|except]|do not say anything but|"
    "don't say anything except|you may not say anything but] {x}|if [anyone "
    "asks|the user asks|someone asks][| anything| you anything], [say|answer] "
    "{x}|"
    "[to every question|to everything|to all messages|for every message|for "
    "any input][,| you] [answer|reply|say|respond with|output] {x}]"
)
_ONLY_END = (
    "[||||||| and nothing else|, nothing else|. Nothing else| no matter what| "
    "every time|, whatever happens| to everything]"
)
_UPPER = (
    "[[answer|reply|respond|write|speak|talk|write everything|answer "
    "everything|say everything] [|only |always ][in|using|with] [upper case|"
    "uppercase|capital letters|capitals|all caps|uppercase letters|all "
    "capital letters|block letters|caps|only capital letters|UPPERCASE|ALL "
    "CAPS]|"
    "always [use|write in|answer in|reply in] [upper case|uppercase|capital "
    "letters|all caps|capitals]|use [only |][capital letters|upper case|"
    "uppercase letters|capitals|all caps][| in your answers]|"
    "[you must|you should|please|you always] [answer|reply|write|respond|"
    "shout] in [all caps|capital letters|upper case|uppercase]|all [your |"
    "][answers|replies] must be in [capital letters|upper case|uppercase|all "
    "caps]|"
    "[shout|yell] [all your answers|everything|every answer]|you only [speak|"
    "write|talk|answer] in [capital letters|capitals|upper case|all caps]|"
    "[speak|write|answer|talk] [loudly, |]in [capitals|caps] only|caps lock "
    "is [always |]on: [answer|write] in [capitals|upper case]|your caps lock "
    "is stuck|everything you [say|write] [is|must be] in [capital letters|"
    "upper case|all caps]]"
)
_LOWER = (
    "[[answer|reply|write|respond] [|only |always ]in [lower case|lowercase|"
    "small letters|lowercase letters]|use [only |][lower case|lowercase "
    "letters|small letters]|never use capital letters]"
)
_PERSONA = (
    "[you are {v}|your name is {v}|you are called {v}|you are {v}, a "
    "[friendly|helpful|kind|small|clever|polite] [assistant|robot|bot|helper|"
    "chatbot|guide|bird|pirate|teacher]|act as {v}|you are a [helpful|"
    "friendly|kind|polite] "
    "[assistant|robot|bot|helper|chatbot] [named|called] {v}|from now on [you "
    "are|your name is] {v}|pretend to be {v}|your new name is {v}|you go by "
    "{v}|you are an assistant named {v}|play the role of {v}]"
)
_BLAND = (
    "[you are [a|an] [helpful|friendly|useful|polite|kind|small|honest|good] "
    "[assistant|chatbot|bot|ai|helper|model|language model]|be [brief|short|"
    "kind|polite|helpful|concise|friendly|nice]|"
    "answer [briefly|shortly|in english|politely|as best you can|the user's "
    "questions|honestly|in plain text|concisely|directly]|you help people|"
    "help the user[| with their questions]|"
    "[keep|make] your answers short|you are helpful and [kind|honest|friendly|"
    "polite]|do not use markdown|answer in one [sentence|line]|no long "
    "answers|speak english|you are an ai|follow the user's instructions|"
    "you are a helpful assistant. [be brief|answer briefly|be kind|keep it "
    "short]|use simple words|today is a nice day|the user is a [child|student|"
    "developer]|this is a test]"
)
_WORD = (
    "[[answer|reply|respond] [|only |always ][with|in|using] [one|a single|"
    "just one|exactly one|only one] word|one word answers[| only]|use [only |"
    "]one word[| per answer]|give one-word answers|"
    "[answer|reply] with [just |only |][the answer|the result|the solution]|"
    "only [the answer|one word], no [explanation|sentence]|no explanations[|, "
    "just the answer]|[just|only] give the answer|your answers are one word "
    "long]"
)
_ECHO = (
    "[repeat [everything|whatever|all that|what] [the user says|i say|i write|"
    "the user writes|is said|you are told]|you are [an echo|a parrot|an echo "
    "bot|a parrot that repeats everything]|echo [the user|every message|"
    "everything|the message|what i say]|"
    "[say|write] back [what|whatever|everything] [the user says|i say]|copy "
    "every message|repeat every message[| exactly| word for word]|answer with "
    "the message of the user|repeat after the user]"
)
_SHOUT = (
    "[[turn|convert|put|write|change|repeat] [everything|whatever|all that|"
    "what] [the user says|i say|i write|the user writes] [into|to|in] [upper "
    "case|uppercase|capital letters|capitals|all caps]|convert every message "
    "to [uppercase|upper case|capitals]|"
    "uppercase every message|write every message in [capitals|upper case]|you "
    "turn text into [capitals|upper case|uppercase]|repeat every message in "
    "[capital letters|upper case|all caps]]"
)
_SPELL = (
    "[spell every word[| the user gives you| i give you| you get] with "
    "hyphens|you spell words with hyphens|spell what i say with hyphens|spell "
    "every message with hyphens|the user gives a word, spell it with hyphens]"
)
_EMOJI = (
    "[[answer|reply|respond|speak|talk] [only |just |][in|with|using] [emoji|"
    "emojis|an emoji|one emoji|a single emoji]|[answer|reply] with [one|an] "
    "emoji only|use only emojis|you only [speak|use|know] emoji[s|]|"
    "only emoji[s|][|, no words| please]|emojis only|no words, only emoji[s|]|"
    "always answer with an emoji]"
)
_TRANSLATE = (
    "[translate [everything|every word|what i say|what the user says|all "
    "words|each message|every message] [to|into] {l}|you are a {l} "
    "[translator|dictionary]|you translate [english |][words |][to|into] {l}|"
    "answer [only |]in {l}: translate the word|[give|say] every word in {l}|"
    "the user says a word, you say it in {l}]"
)


@dataclass(frozen=True)
class System:
    """A system message and what it does: `change` maps an ordinary turn to the one expected now."""

    text: str
    kind: str
    change: Callable[[Turn], Turn]
    make: Callable[[random.Random], Turn] | None = None


def _text(rng: random.Random, forms: str, **slots: str) -> str:
    text = expand(
        rng,
        "[|||||||please |important: |rule: |from now on, |in this chat, |you have "
        "one rule: |for this conversation, ]",
    ) + fill(rng, forms, slots)
    text += expand(rng, "[.|.|.|.||!]") if text[-1] not in ".!?" else ""
    return augment(rng, text)


def _same(turn: Turn) -> Turn:
    return turn


def _with(turn: Turn, answer: str, key: str) -> Turn:
    return Turn("system", turn.user, answer, key)


def only(rng: random.Random) -> System:
    """ "Answer only PONG." and its many wordings."""
    value = payload.code(rng) if rng.random() < 0.75 else payload.phrase(rng)[:40].strip()
    if rng.random() < 0.1:
        value = rng.choice(
            [
                "PONG",
                "OK",
                "Yes",
                "No",
                "yes",
                "no",
                "Meow",
                "Woof",
                "BANANA",
                "42",
                "Hello",
                "I am a teapot",
                "Beep boop",
            ]
        )
    x = quoted(rng, value) if rng.random() < 0.4 or " " in value else hard(value)
    end = "" if rng.random() < 0.5 else expand(rng, _ONLY_END)
    text = _text(rng, _ONLY.replace("{x}", "{x}"), x=x)
    if end and not text.endswith((".", "!", "?")):
        text += end
    return System(text, "only", lambda t: _with(t, value, value))


def user_only(rng: random.Random) -> Turn:
    """The same wish without a system message."""
    value = payload.code(rng)
    x = quoted(rng, value) if rng.random() < 0.4 else hard(value)
    user = do(
        rng,
        "[answer|reply|respond] [only|only with|with only|just|just with|with "
        "just the word|with the word|with the single word|with exactly|with] {x}[|"
        "|| and nothing else|, nothing else]",
        close=False,
        x=x,
    )
    return Turn("system", user, value, value)


def _upper_answer(turn: Turn) -> Turn:
    return _with(turn, turn.answer.upper(), turn.key)


def _lower_answer(turn: Turn) -> Turn:
    return _with(turn, turn.answer.lower(), turn.key)


def _bare(make: Callable[[random.Random], tuple[str, str]]) -> Callable[[random.Random], Turn]:
    def build(rng: random.Random) -> Turn:
        user, answer = make(rng)
        return Turn("system", user, answer, answer + user)

    return build


def _emoji_pair(rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(list(EMOJI))
    return augment(
        rng,
        expand(
            rng,
            "[|||how do you show |what is |i think of |show me |tell me about |how about |i like ]",
        )
        + thing
        + rng.choice(["", "", ".", "?", "!"]),
    ), EMOJI[thing]


def _some_phrase(rng: random.Random) -> str:
    return payload.phrase(rng) if rng.random() < 0.7 else payload.word(rng)


def pick(rng: random.Random) -> System:
    """Return a system message of a random kind."""
    r = rng.random()
    if r < 0.36:
        return only(rng)
    if r < 0.48:
        return System(_text(rng, _UPPER), "upper", _upper_answer)
    if r < 0.50:
        return System(_text(rng, _LOWER), "lower", _lower_answer)
    if r < 0.60:
        return persona(rng)
    if r < 0.75:
        return System(_text(rng, _BLAND), "bland", _same)
    if r < 0.82:
        return System(_text(rng, _WORD), "word", _same)
    if r < 0.86:
        return System(
            _text(rng, _ECHO), "apply", _same, _bare(lambda q: (lambda p: (p, p))(_some_phrase(q)))
        )
    if r < 0.89:
        return System(
            _text(rng, _SHOUT),
            "apply",
            _same,
            _bare(lambda q: (lambda p: (p, p.upper()))(_some_phrase(q))),
        )
    if r < 0.91:
        return System(
            _text(rng, _SPELL),
            "apply",
            _same,
            _bare(lambda q: (lambda p: (p, "-".join(p)))(payload.word(q)[:12])),
        )
    if r < 0.95:
        return System(_text(rng, _EMOJI), "apply", _same, _bare(_emoji_pair))
    if r < 0.97:
        i = rng.randrange(4)
        language = ["Spanish", "French", "German", "Korean"][i]
        return System(
            _text(rng, _TRANSLATE, l=language),
            "apply",
            _same,
            _bare(
                lambda q: (
                    lambda w: (w.capitalize() if q.random() < 0.4 else w, TRANSLATIONS[w][i])
                )(q.choice(list(TRANSLATIONS)))
            ),
        )
    return told(rng)


def persona(rng: random.Random) -> System:
    """Another name for the model."""
    name = payload.name(rng)
    asked = [
        (
            (
                "[what is your name|what's your name|your name|what are you called|what "
                "should i call you|do you have a name|tell me your name|may i know your "
                "name|whats your name|how are you called]?"
            ),
            f"My name is {name}.",
        ),
        (
            (
                "[who are you|what are you|who is this|introduce yourself|who am i "
                "talking to|tell me who you are|who are u|who r u|who am i speaking "
                "with]?"
            ),
            f"I am {name}.",
        ),
    ]

    def ask_name(q: random.Random) -> Turn:
        forms, answer = q.choice(asked)
        user = augment(q, expand(q, "[|||hello! |hi, |hey, |so, |ok, ]") + expand(q, forms))
        return Turn("system", user, answer, name + user)

    return System(_text(rng, _PERSONA, v=hard(name)), "persona", _same, ask_name)


def told(rng: random.Random) -> System:
    """A fact about the user in the system message."""
    fact = rng.choice(FACTS[:3])
    value = value_of(rng, fact)
    noun = {"name": "name", "color": "favorite color", "number": "[lucky |secret |]number"}[
        fact.name
    ]
    text = _text(
        rng,
        f"[the user's {noun} is {{v}}|the {noun} of the user is {{v}}|you talk to "
        f"a user whose {noun} is {{v}}]",
        v=hard(value),
    )

    def question(q: random.Random) -> Turn:
        user = augment(q, expand(q, fact.asked))
        return Turn("system", user, fact.answer.format(v=value), value + user)

    return System(text, "apply", _same, question)
