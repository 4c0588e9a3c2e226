"""Skills on known facts: capitals and translations, and saying so when a fact is not known."""
# ruff: noqa: SIM905 - tables of words read better as text

import random

from training.phrasing import Turn, ask, do, hard, quoted, soft
from training.skills import payload
from training.skills.sequence import UNKNOWN
from training.words import (
    CAPITALS,
    COUNTRY_ALIASES,
    DIGIT_WORDS,
    LANGUAGES,
    TRANSLATION_ALIASES,
    TRANSLATIONS,
    UNKNOWN_PLACES,
)

_CAPITAL = (
    "[what is the capital [city |]of {x}?|what's the capital [city |]of {x}?|"
    "whats the capital of {x}?|"
    "which city is the capital of {x}?|capital of {x}?|{x} capital?|{x}'s "
    "capital?|what is {x}'s capital[ city|]?|"
    "name the capital [city |]of {x}.|[tell|give] me the capital [city |]of "
    "{x}.|the capital of {x} is[?|...|]|"
    "do you know the capital of {x}?|i need [to know |]the capital of {x}.|"
    "what city is the capital of {x}?|"
    "what's {x}'s capital[ city|]?|can you tell me [what |]the capital of "
    "{x}[ is|]?|which city is {x}'s capital?|"
    "what capital does {x} have?|what do they call the capital of {x}?|remind "
    "me, what's the capital of {x}?|"
    "which is the capital [city |]of {x}?|in which city does the government "
    "of {x} sit?|capital city of {x}?|"
    "for {x}, what is the capital?|tell me what the capital of {x} is.|say the capital of {x}|"
    "what is the name of the capital [city |]of {x}?|i'm travelling to {x}, "
    "what is the capital?|{x}: capital?|"
    "know the capital of {x}?|which city serves as the capital of {x}?|{x} - "
    "what's the capital?|where does {x} have its capital?|what city is {x}'s "
    "capital?|the capital city of {x} is called what?|i am looking for the "
    "capital of {x}.|could you name {x}'s capital?|which city do you call the "
    "capital of {x}?|what would be the capital of {x}?|where is the capital "
    "of {x}?]"
)
_COUNTRY = (
    "[{x} is the capital of [which|what] country?|which country has {x} as its capital?|"
    "[what|which] country is {x} the capital of?|{x} is the capital of what?|"
    "of which country is {x} the capital?]"
)


def _country(rng: random.Random) -> str:
    country = rng.choice(list(CAPITALS))
    aliases = COUNTRY_ALIASES.get(country)
    shown = rng.choice(aliases) if aliases and rng.random() < 0.6 else country
    return country + "|" + shown


def capital(rng: random.Random) -> Turn:
    """The capital of a country, or the country of a capital."""
    country, shown = _country(rng).split("|")
    if rng.random() < 0.12:
        user = ask(rng, _COUNTRY, x=soft(CAPITALS[country]))
        return Turn("capitals", user, country, user)
    user = ask(rng, _CAPITAL, x=soft(shown))
    return Turn("capitals", user, CAPITALS[country], user)


def capital_follow_up(rng: random.Random) -> Turn:
    """A second country after a question about a first."""
    country, shown = _country(rng).split("|")
    user = ask(
        rng,
        "[and [of |]{x}?|and what about {x}?|what about {x}?|and for {x}?|how about {x}?]",
        x=soft(shown),
    )
    return Turn("capitals", user, CAPITALS[country], user)


_TO = (
    "[how do you say {x} in {l}?|how do i say {x} in {l}?|how to say {x} in "
    "{l}?|what is {x} in {l}?|what's {x} in {l}?|"
    "{x} in {l}[?||, please]|[translate|put] {x} [to|into|in] {l}.|say {x} in "
    "{l}.|what is the {l} [word |]for {x}?|"
    "what's the {l} word for {x}?|the {l} word for {x}[?|]|give me {x} in "
    "{l}.|[write|tell me] {x} in {l}.|"
    "in {l}, [what is|how do you say|how would you say] {x}?|{l} for {x}[?|]|"
    "{l} word for {x}[?|]|how would you say {x} in {l}?|"
    "how is {x} said in {l}?|what do you call {x} in {l}?|translate [to|into] "
    "{l}: {x}|what do {l} people say for {x}?|"
    "i want to say {x} in {l}.|teach me {x} in {l}.|how does one say {x} in "
    "{l}?|what does one say for {x} in {l}?|"
    "how do they say {x} in {l}?|how [would|does] a {l} speaker say {x}?|how "
    "do {l} speakers say {x}?|what would {x} be in {l}?|i need the {l} word "
    "for {x}.|what's {l} for {x}?|do you know {x} in {l}?|do you know the {l} "
    "word for {x}?|how can i say {x} in {l}?|which word means {x} in {l}?|{x} "
    "[written |]in {l}, please|could you translate {x} [to|into] {l}?|give me "
    "the {l} translation of {x}.|what is the {l} translation of {x}?|{x} [-|:|"
    ",] {l}?|what is {l} for {x}?|please translate {x} [to|into] {l}.|in {l} "
    "please: {x}]"
)
_FROM = (
    "[what does {x} mean[| in english]?|what is {x} in english?|translate {x} "
    "[to|into] english.|{x} in english?|"
    "what does the {l} word {x} mean?|what is the english word for {x}?|"
    "what's the meaning of {x} in {l}?|"
    "the {l} word {x} means [what|]?|how do you say {x} in english?]"
)
_KIND = dict.fromkeys(DIGIT_WORDS, "number") | dict.fromkeys(
    "red blue green yellow black white orange pink brown purple grey".split(), "color"
)


def translate(rng: random.Random) -> Turn:
    """A colour, number or greeting in Spanish, French, German or Korean."""
    english = rng.choice(list(TRANSLATIONS))
    i = rng.randrange(4)
    foreign, language = TRANSLATIONS[english][i], LANGUAGES[i]
    if rng.random() < 0.12:
        word = quoted(rng, foreign) if rng.random() < 0.5 else soft(foreign)
        options = [e for e, t in TRANSLATIONS.items() if t[i] == foreign]
        same = [e for e, t in TRANSLATIONS.items() if foreign in t]
        if len(same) == 1 and options:
            user = ask(rng, _FROM, x=word, l=soft(language))
            return Turn("translate", user, english, user)
    shown = english
    if english in TRANSLATION_ALIASES and rng.random() < 0.4:
        shown = rng.choice(TRANSLATION_ALIASES[english])
    if english in DIGIT_WORDS and rng.random() < 0.2:
        shown = str(DIGIT_WORDS.index(english) + 1)
    word = quoted(rng, shown) if rng.random() < 0.4 else soft(shown)
    if english in _KIND and rng.random() < 0.3:
        kinds = {"number": ["number"], "color": ["color", "colour"]}[_KIND[english]]
        word = rng.choice([f"the {rng.choice(kinds)} {word}", f"the word {word}"])
    elif rng.random() < 0.15:
        word = "the word " + word if " " not in shown else "the phrase " + word
    user = ask(rng, _TO, x=word, l=soft(language))
    return Turn("translate", user, foreign, user)


def translate_follow_up(rng: random.Random) -> Turn:
    """The next word or language, named in full."""
    english = rng.choice(list(TRANSLATIONS))
    i = rng.randrange(4)
    user = ask(
        rng,
        "[and {x} in {l}?|what about {x} in {l}?|now {x} in {l}.]",
        x=soft(english),
        l=soft(LANGUAGES[i]),
    )
    return Turn("translate", user, TRANSLATIONS[english][i], user)


def count_foreign(rng: random.Random) -> Turn:
    """Counting in another language."""
    i = rng.randrange(4)
    n = rng.choice([3, 5, 5, 10, 10, rng.randint(2, 10)])
    user = do(
        rng,
        "[count [from {a} |]to {n} in {l}|[say|write|list] the numbers [from|] "
        "{a} to {n} in {l}|in {l}, count to {n}]",
        a=soft("1"),
        n=soft(str(n)),
        l=soft(LANGUAGES[i]),
    )
    return Turn("translate", user, ", ".join(TRANSLATIONS[w][i] for w in DIGIT_WORDS[:n]), user)


_UNKNOWN = (
    "[what is the weather [like |]today?|what's the weather like [in {c}|"
    "today|tomorrow]?|will it rain [today|tomorrow]?|how is the weather in "
    "{c}?|"
    "weather [today|tomorrow|in {c}]?|is it [raining|sunny|cold] [outside|in "
    "{c}]?|what's the temperature [today|outside|in {c}]?|what's the forecast "
    "for {c}?|"
    "what time is it[| now| in {c}]?|what is the time?|what day is it today?|"
    "what is today's date?|what year is it?|what's the date today?|"
    "who is the president of {c}?|who is the king of {c}?|who is the prime "
    "minister of {c}?|who won the [world cup|election|game|match|super bowl|"
    "race] [yesterday|last year|in {y}]?|"
    "who won the [world cup|oscar|nobel prize|championship] in {y}?|what's in "
    "the news[| today]?|what happened [today|yesterday|in {y}|in the news]?|"
    "tell me the [latest |]news[| from {c}]|"
    "how many people live in {c}?|what is the population of {c}?|how [big|old|"
    "large|far] is {c}?|what is the currency of {c}?|what language do they "
    "speak in {c}?|"
    "who wrote [{b}|the book {b}|hamlet|the bible]?|who painted [{b}|the mona "
    "lisa]?|who invented [the {w}|{w}|the telephone|electricity]?|who "
    "directed {b}?|who discovered [america|gravity|{w}]?|"
    "what is the price of [bitcoin|gold|a {w}|{w}]?|how much does a {w} cost?|"
    "what is the stock price of {n}?|how much is a {w}[ in {c}|]?|where can i "
    "buy a {w}?|"
    "who is {n} {s}?|what is my [phone number|address|birthday|password|"
    "mother's name|age|job|email]?|how old am i?|where do i live?|where am i?|"
    "when is my birthday?|"
    "when was {n} {s} born?|where was {n} {s} born?|how old is {n} {s}?|when "
    "did {n} {s} die?|who is [the ceo of {n}|{n}'s wife]?|where is my [{w}|"
    "phone]?|"
    "how far is [the moon|the sun|{c}|mars]?|how tall is [the eiffel tower|"
    "mount everest|{n} {s}]?|why is the sky blue?|what is the speed of light?|"
    "how deep is the ocean?|"
    "what is [a {p}|the meaning of life|quantum physics|photosynthesis|the "
    "theory of relativity|dark matter|{p}]?|explain [quantum physics|gravity|"
    "{p}|relativity|the {w} theory|how a {w} works]|"
    "what will [happen tomorrow|the lottery numbers be|i do tomorrow|the "
    "weather be on sunday]?|what are the lottery numbers?|what am i [thinking|"
    "wearing|holding][| right now]?|"
    "[give me|what is] [a|the] recipe for {w}|how do i [cook|fix|build|make|"
    "repair] a {w}?|which [bus|train] goes to {c}?|when does the [train|bus|"
    "shop|next train to {c}] [leave|open]?|"
    "what is the boiling point of {w}?|what is the {w} made of?|why do [birds|"
    "cats|people|dogs] [fly|sleep|sing|dream]?|how many {w}s are [there in "
    "the world|in {c}]?|"
    "what is the [highest|biggest|longest] [mountain|river|building|lake][| "
    "in {c}| in the world]?|what is the tallest [building|mountain|tree]?|"
    "what did i [eat|do|have] [yesterday|for breakfast|last night]?|who is "
    "[my boss|your favorite singer|the best singer|at the door]?|what's "
    "[playing|on tv] [tonight|in the cinema]?|"
    "what is the score of the game?|who is playing tonight?|is {n} at home?|"
    "what's the phone number of {n}?|what is {n}'s [email|address|phone "
    "number]?|"
    "write [python|java|c++|] code [for|that sorts|to sort|to read] [a list|"
    "{w}|a file]|what is the [chemical formula|symbol] [of|for] {w}?|how many "
    "atoms are in a {w}?|"
    "who [sang|sings|composed] {b}?|what is the plot of {b}?|when did [world "
    "war 2|the war|{b}|the movie {b}] [start|end|come out]?|what's the wifi "
    "password?|"
    "which team [won|is better|leads the league]?|which horse will win?|who "
    "will win the [election|match|game|world cup]?|when will [i|it|{n}] [be "
    "rich|arrive|get home|end]?]"
)


def unknown(rng: random.Random) -> Turn:
    """A question far beyond the model: it says that it doesn't know."""
    r = rng.random()
    if r < 0.22:
        place = (
            rng.choice(UNKNOWN_PLACES) if rng.random() < 0.7 else payload.pseudo(rng).capitalize()
        )
        user = ask(rng, _CAPITAL, x=soft(place))
    elif r < 0.4:
        known = rng.random() < 0.4
        word = rng.choice(list(TRANSLATIONS)) if known else payload.word(rng)
        while not known and word in TRANSLATIONS:
            word = payload.word(rng)
        other = (
            "Italian Japanese Chinese Russian Arabic Dutch Polish Greek Turkish Latin Hindi Swedish"
        ).split()
        language = rng.choice(other if known or rng.random() < 0.3 else LANGUAGES)
        x = quoted(rng, word) if rng.random() < 0.4 else soft(word)
        user = ask(rng, _TO, x=x, l=soft(language))
    else:
        place = rng.choice(list(CAPITALS) + UNKNOWN_PLACES)
        user = ask(
            rng,
            _UNKNOWN,
            c=soft(place),
            y=str(rng.randint(1900, 2026)),
            w=payload.word(rng),
            p=payload.pseudo(rng),
            n=soft(payload.name(rng)),
            s=soft(payload.pseudo(rng).capitalize()),
            b=hard(payload.sentence(rng, 2).title()),
        )
    return Turn("unknown", user, UNKNOWN, user)
