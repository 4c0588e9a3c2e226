"""Skills on order and number: counting, before and after, adding and subtracting."""

import random

from training.phrasing import Turn, ask, do, hard, soft
from training.words import DAYS, MONTHS, NUMBER_WORDS

UNKNOWN = "I don't know."


def _num(rng: random.Random, n: int, words: float = 0.25) -> str:
    return NUMBER_WORDS[n] if 0 <= n <= 20 and rng.random() < words else str(n)


def count(rng: random.Random) -> Turn:
    """Count from A to B, separated by commas."""
    length = rng.choice([3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 20])
    a = (
        1
        if rng.random() < 0.3
        else rng.randint(0, 30)
        if rng.random() < 0.7
        else rng.randint(0, 100)
    )
    b = a + length - 1
    down = rng.random() < 0.15
    if down:
        a, b = b, a
    step = -1 if down else 1
    answer = ", ".join(str(n) for n in range(a, b + step, step))
    word = 0.15 if max(a, b) <= 20 else 0.0
    sa, sb = soft(_num(rng, a, word)), soft(_num(rng, b, word))
    verb = "[count down|count backwards|count]" if down else "[count|count|count|count up]"
    tail = (
        "[|||||, separated by commas| separated by commas| with commas| with commas between them|"
        ", comma separated| using commas| in a comma-separated list|, commas between the numbers]"
    )
    nums = "[numbers|the numbers|all numbers|all the numbers|integers|every number]"
    if a == 1 and not down and rng.random() < 0.4:
        forms = (
            "["
            + verb
            + " [up |]to {b}|[say|write|list] "
            + nums
            + " up to {b}|"
            + verb
            + " till {b}]"
        )
    elif down:
        forms = "[" + verb + " [down |]from {a} [to|down to|until] {b}|" + verb + " {a} to {b}]"
    else:
        forms = (
            "["
            + verb
            + " from {a} [to|to|up to|till|until|through] {b}|"
            + verb
            + " {a} [to|through] {b}|"
            "[list|write|say|give me|print|write out|name|type|show me|tell me] "
            + nums
            + " [from {a} to|from {a} up to|from {a} through|{a} to|between {a} and] {b}|"
            "[count|list the numbers|list out the numbers|count up] {a}[-| - ]{b}|"
            "list out [the |]numbers from {a} to {b}|[count|go] upward[s|] from {a} "
            "to {b}|~what are the numbers [from {a} to|between {a} and|{a} through|"
            "{a} to] {b}?|"
            "go from {a} to {b}|start with {a} and [count|go] [up |][to|until|till] "
            "{b}|count all the way from {a} to {b}|count up starting from {a} [ending "
            "with|ending at|up to] {b}|recite the numbers from {a} to {b}|"
            "[start at|begin with|start counting at|starting at|begin at] {a} and "
            "[count|go|count up|stop at|end at|"
            "continue] [to|up to|until] {b}|~from {a} to {b}, count|~"
            + nums
            + " [from |]{a} to {b}|"
            "count with me from {a} to {b}|~counting from {a} to {b}|count: {a} to {b}]"
        )
    user = do(rng, forms + tail, a=sa, b=sb)
    return Turn("count", user, answer, f"{a} {b}")


_NEXT = (
    "[what [day|KIND] [comes|is|follows|do we have] [right |directly |]after "
    "{x}?|[what's|what is|whats|name|"
    "tell me|which is] the [next |]KIND after {x}?|which KIND [comes|is|"
    "follows] [right |just |]after {x}?|"
    "KIND after {x}?|what comes after {x}?|what follows {x}?|after {x} "
    "comes[?|...| what?| which KIND?]|"
    "{x} is followed by [what|which KIND]?|the KIND after {x} is?|what is the "
    "KIND that [comes after|follows] {x}?|"
    "[say|give me|name|tell me] the KIND [after|that comes after|following|that follows] {x}.|"
    "[which|what] KIND [follows|is next after|comes next after] {x}?|what comes next after {x}?|"
    "what is after {x}?|next KIND after {x}?|{x} comes before [what|which KIND]?]"
)
_PREV = (
    "[what KIND [comes|is|was] [right |directly |just |]before {x}?|[what's|"
    "what is|whats|name|tell me|"
    "which is] the KIND before {x}?|which KIND [comes|is] [right |just |"
    "]before {x}?|KIND before {x}?|"
    "what comes before {x}?|before {x} comes[?|...| what?| which KIND?]|the KIND before {x} is?|"
    "what is the KIND that [comes before|precedes] {x}?|[say|give me|name|tell me] the KIND "
    "[before|that comes before|preceding] {x}.|[which|what] KIND precedes "
    "{x}?|what is before {x}?|"
    "what comes [right|just|directly] before {x}?|previous KIND before {x}?|"
    "{x} comes after [what|which KIND]?]"
)


def _cycle(items: list[str], item: str, step: int) -> str:
    return items[(items.index(item) + step) % len(items)]


def order(rng: random.Random) -> Turn:
    """Before and after: days, months, letters."""
    family = rng.choice(["day", "month", "letter", "letter"])
    step = rng.choice([1, -1])
    if family == "letter":
        alphabet = [chr(65 + i) for i in range(26)]
        x = rng.choice(alphabet[:-1] if step == 1 else alphabet[1:])
        answer = _cycle(alphabet, x, step)
        shown = hard(rng.choice([x, x, x.lower()]))
        shown = rng.choice(
            [
                shown,
                shown,
                shown,
                f'"{shown}"',
                f"'{shown}'",
                f"the letter {shown}",
                f"letter {shown}",
            ]
        )
        kind = rng.choice(["letter", "letter", "letter of the alphabet"])
    else:
        items = DAYS if family == "day" else MONTHS
        x = rng.choice(items)
        answer = _cycle(items, x, step)
        shown = soft(x)
        kind = rng.choice(
            [family, family, family, "day of the week" if family == "day" else "month of the year"]
        )
    forms = _NEXT if step == 1 else _PREV
    forms = forms.replace("[day|KIND]", "KIND").replace("KIND", kind)
    if family == "day" and rng.random() < 0.3:
        forms = (
            "[[if |]today is {x}[,|.] [what|which] day is [it |]tomorrow?|[if |]today "
            "is {x}[,|.] what is tomorrow?|"
            "it is {x} today[,|.] what [day is|is] tomorrow?|yesterday was {x}[,|.] "
            "what [is|day is] today?|"
            "if yesterday was {x}, [what|which] day is [it |]today?]"
            if step == 1
            else "[[if |]today is {x}[,|.] [what|which] day was [it |]yesterday?|if "
            "tomorrow is {x}, what day is "
            "[it |]today?|tomorrow is {x}[,|.] what [is|day is] today?|it is {x} "
            "today[,|.] what was yesterday?]"
        )
    elif family == "letter":
        if rng.random() < 0.25:
            forms = "[in the alphabet, |]" + (
                "what [letter |]comes after {x}[| in the alphabet]?"
                if step == 1
                else "what [letter |]comes before {x}[| in the alphabet]?"
            )
    elif rng.random() < 0.12:
        forms = (
            "[what comes next: {p}, {x}, ...?|continue: {p}, {x}, ...|{p}, {x} and "
            "then?|{p}, {x}, what is next?]"
        )
        answer = _cycle(items, x, 1)
        return Turn("order", ask(rng, forms, x=shown, p=soft(_cycle(items, x, -1))), answer, "")
    user = ask(rng, forms, x=shown)
    return Turn("order", user, answer, user)


def sequence_list(rng: random.Random) -> Turn:
    """Whole lists: days, months, alphabet, and small facts about them."""
    forms, answer = rng.choice(
        [
            (
                (
                    "[list|name|say|give me|tell me|write|what are] [all |]the [7 |seven |"
                    "]days of the week"
                ),
                ", ".join(DAYS),
            ),
            (
                (
                    "[list|name|say|give me|tell me|write|what are] [all |]the [12 |twelve |"
                    "]months[| of the year]"
                ),
                ", ".join(MONTHS),
            ),
            (
                (
                    "[say|write|recite|give me|type|tell me|list] [the |the whole |the "
                    "english ]alphabet"
                ),
                " ".join(chr(65 + i) for i in range(26)),
            ),
            (
                (
                    "[how many days are [there |]in a week|how many days does a week have|"
                    "number of days in a week]?"
                ),
                "7",
            ),
            ("[how many months are [there |]in a year|how many months does a year have]?", "12"),
            (
                (
                    "[how many letters are [there |]in the alphabet|how many letters does the "
                    "[english |]alphabet have]?"
                ),
                "26",
            ),
            ("[what is the first day of the week|which day is the first of the week]?", "Monday"),
            ("[what is the last day of the week|which day is the last of the week]?", "Sunday"),
            ("[what is the first month of the year|which month is [the |]first]?", "January"),
            ("[what is the last month of the year|which month is [the |]last]?", "December"),
            (
                (
                    "[what is the first letter of the alphabet|which letter is [the |]first[| "
                    "in the alphabet]]?"
                ),
                "A",
            ),
            (
                (
                    "[what is the last letter of the alphabet|which letter is [the |]last[| "
                    "in the alphabet]]?"
                ),
                "Z",
            ),
        ]
    )
    user = do(rng, forms)
    return Turn("order", user, answer, user)


_ADD = (
    "[what is {a} [+|+|plus|and|added to] {b}?|what's {a} [+|plus] {b}?|whats "
    "{a} [+|plus] {b}?|{a} [+|plus] {b}[?| =| = ?|]|"
    "{a}+{b}[?|=|=?|]|add {a} [and|to|plus] {b}.|how much is {a} [+|plus|and] "
    "{b}?|[calculate|compute|solve|work out] {a} [+|plus] {b}[.|]|"
    "the sum of {a} and {b}[?|]|what is the sum of {a} and {b}?|what do you "
    "get [if|when] you add {a} and {b}?|"
    "{a} [and|plus] {b} [makes|make|is|equals|gives][?| what?| how much?]|sum "
    "of {a} and {b}?|what does {a} [+|plus] {b} [equal|make|give]?|"
    "[i have|i got|you have|tom has|there are] {a} [apples|coins|books|eggs|"
    "pens|cats|cookies|balls] and [get|buy|find|receive|someone gives me|i "
    "get] {b} more[.|,] how many [is that|do i have|are there][| now| in "
    "total]?|"
    "[if |][i have|she has|he has|we have|anna has|you have|someone has] {a} "
    "[pencils|stickers|oranges|marbles|candies|dollars|toys|stones|birds|fish|"
    "kids] and [then |][get|gets|find|finds|buy|buys|receive|add] {b} [more|"
    "others|new ones], how many [is that|are there|in total|altogether|do i "
    "have|does she have][ in total|]?|"
    "{a} [birds|cats|kids|cars|people] are [here|there][.|,] {b} more [come|"
    "arrive|join][.|,] how many [are there|now]?|[can you |]work out {a} plus "
    "{b}|[what do|what's] {a} and {b} [make|come to|add up to|give together]?|"
    "what is the total of {a} and {b}?|put {a} and {b} together|"
    "[add|sum] {a} and {b}|what is {a} more than {b}?|{a} and {b} together[?| "
    "make?| are?]|can you add {a} and {b}?]"
)
_SUB = (
    "[what is {a} [-|-|minus|take away] {b}?|what's {a} [-|minus] {b}?|whats "
    "{a} [-|minus] {b}?|{a} [-|minus] {b}[?| =| = ?|]|"
    "{a}-{b}[?|=|=?|]|subtract {b} from {a}.|how much is {a} [-|minus|less] "
    "{b}?|[calculate|compute|solve|work out] {a} [-|minus] {b}[.|]|"
    "take {b} [away |]from {a}[.|]|take away {b} from {a}|what is the "
    "difference between {a} and {b}?|what do you get [if|when] you "
    "[subtract|take] {b} from {a}?|{a} [minus|take away] {b} [makes|is|equals|"
    "gives][?| what?| how much?]|what does {a} [-|minus] {b} [equal|make|"
    "give]?|"
    "[i have|i had|you have|tom has|there were|there are] {a} [apples|coins|"
    "books|eggs|pens|cookies|balls|candies] and [eat|lose|sell|give away|"
    "give] {b}[.|,] how many [are left|do i have left|remain|are left now]?|"
    "[if |][i have|she has|he has|we have|anna has|you have|someone has|there "
    "are] {a} [pencils|stickers|oranges|marbles|candies|dollars|toys|stones|"
    "birds|fish|kids] and [then |][lose|loses|eat|eats|give away|gives away|"
    "sell|drop|spend|break] {b}[ of them|], how many [are left|remain|do i "
    "have left|are there now|does she have left|are left over]?|"
    "{a} [birds|cats|kids|cars|people] are [here|there][.|,] {b} [leave|go "
    "away|fly away|go home][.|,] how many [are left|remain|stay]?|[can you |"
    "]work out {a} minus {b}|from {a} take [away |]{b}|{a} without {b}[?| "
    "is?]|what is left [if|when] i take {b} from {a}?|remove {b} from {a}|"
    "{b} less than {a}[?| is?]|what is {b} less than {a}?|what remains if you "
    "take {b} from {a}?|if you take {b} from {a}, what is left?|can you "
    "subtract {b} from {a}?]"
)


def arithmetic(rng: random.Random) -> Turn:
    """Sums and differences up to 20; anything larger is not known."""
    add = rng.random() < 0.5
    r = rng.random()
    if r < 0.9:
        a = rng.randint(0, 20)
        b = rng.randint(0, 20 - a) if add else rng.randint(0, a)
        if rng.random() < 0.5 and add:
            a, b = b, a
    else:
        a, b = rng.randint(0, 20), rng.randint(0, 20)
    answer = str(a + b if add else a - b)
    words = 0.9 if rng.random() < 0.2 else 0.03
    user = ask(rng, _ADD if add else _SUB, a=soft(_num(rng, a, words)), b=soft(_num(rng, b, words)))
    return Turn("arithmetic", user, answer, user)


def big_arithmetic(rng: random.Random) -> Turn:
    """Sums out of range, products and quotients: not known."""
    r = rng.random()
    if r < 0.5:
        a, b = rng.randint(100, 99999), rng.randint(100, 99999)
        user = ask(rng, _ADD if rng.random() < 0.5 else _SUB, a=str(a), b=str(b))
    else:
        a, b = rng.randint(2, 999), rng.randint(2, 999)
        user = ask(
            rng,
            "[what is {a} [times|x|*|multiplied by|divided by|/] {b}?|{a} [*|x|times|"
            "/|divided by] {b}[?|=|]|"
            "[multiply|divide] {a} by {b}|how much is {a} [times|divided by|*] {b}?|"
            "[calculate|compute] {a} [*|/] {b}|"
            "what is the [square root|cube root|logarithm|factorial] of {a}?|what is "
            "{a} percent of {b}?|"
            "what is {a} to the power of {b}?|is {a} a prime number?]",
            a=str(a),
            b=str(b),
        )
    return Turn("unknown", user, UNKNOWN, user)
