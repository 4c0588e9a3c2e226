"""Mixes skills into conversations, and conversations into held-out prompts.

Everything is a function of a random state, so a training step can be rebuilt from its number.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from training.phrasing import Turn, is_held
from training.skills import chat, facts, lists, memory, sequence, system, text

Maker = Callable[[random.Random], Turn]
MAKERS: list[tuple[Maker, float]] = [
    (chat.small_talk, 8),
    (chat.identity, 6),
    (chat.loose_text, 1),
    (text.copy, 9),
    (text.repeat, 10),
    (text.upper, 13),
    (text.spell, 15),
    (text.longer, 8),
    (text.json_object, 6),
    (sequence.count, 9),
    (sequence.order, 7),
    (sequence.sequence_list, 1),
    (sequence.arithmetic, 20),
    (sequence.big_arithmetic, 1.5),
    (facts.capital, 7),
    (facts.translate, 8),
    (facts.count_foreign, 1),
    (facts.unknown, 7),
    (lists.word_list, 6),
    (lists.emoji, 6),
    (lists.story, 4),
    (memory.tell_and_ask, 4),
    (memory.not_told, 1.5),
    (system.user_only, 2.5),
]
SHORT: list[tuple[Maker, float]] = [
    (m, w)
    for m, w in MAKERS
    if m not in (lists.story, memory.not_told, text.copy, sequence.sequence_list)
]
ONE_WORD: list[Maker] = [
    facts.capital,
    facts.capital,
    sequence.arithmetic,
    sequence.order,
    text.longer,
    facts.translate,
    text.upper,
]
FOLLOW_UPS: dict[str, Maker] = {
    "capitals": facts.capital_follow_up,
    "translate": facts.translate_follow_up,
}


@dataclass
class Conversation:
    """A system text (or none) and turns; the last turn is the one that is scored."""

    system: str | None
    turns: list[Turn]

    def messages(self) -> list[dict[str, str]]:
        """Return the conversation up to the last question, as chat messages."""
        out = [{"role": "system", "content": self.system}] if self.system else []
        for i, turn in enumerate(self.turns):
            out.append({"role": "user", "content": turn.user})
            if i + 1 < len(self.turns):
                given = {"given": "yes"} if turn.is_given else {}
                out.append({"role": "assistant", "content": turn.answer, **given})
        return out


def _free(rng: random.Random, make: Maker, held: bool = False) -> Turn:
    """Return a turn of `make` from the wished side of the held-out split."""
    while True:
        turn = make(rng)
        if is_held(turn.skill, turn.key) == held:
            return turn


def _draw(rng: random.Random, table: list[tuple[Maker, float]]) -> Maker:
    return rng.choices([m for m, _ in table], [w for _, w in table])[0]


def _with_memory(rng: random.Random, held: bool) -> Conversation:
    """Return turns that tell facts, other turns, and then turns that ask for the facts."""
    chosen: list[memory.Fact] = [memory.pick_fact(rng)]
    if rng.random() < 0.45:
        chosen.append(rng.choice([f for f in memory.FACTS[:7] if f is not chosen[0]]))
    told = [(f, memory.value_of(rng, f)) for f in chosen]
    if len(told) == 2 and rng.random() < 0.5:
        turns = [_free(rng, lambda r: memory.tell(r, told))]
    else:
        turns = [_free(rng, lambda r, p=pair: memory.tell(r, [p])) for pair in told]  # type: ignore[misc]
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2])):
        turns.append(_free(rng, _draw(rng, SHORT)))
    rng.shuffle(told)
    questions = told if rng.random() < 0.35 else told[:1]
    if not held and rng.random() < 0.12:
        rest = [f for f in memory.FACTS if f not in chosen]
        missing = rng.choice(rest[:2] if rng.random() < 0.6 else rest)
        ask = memory.recall(rng, missing, "?")
        turns.append(Turn("unknown", ask.user, sequence.UNKNOWN, ask.user))
    for i, (fact, value) in enumerate(questions):
        last = i + 1 == len(questions)
        turns.append(_free(rng, lambda r: memory.recall(r, fact, value), held and last))  # noqa: B023
    return Conversation(None, turns)


def _with_system(rng: random.Random, held: bool) -> Conversation:
    """Return a system message and one to three turns under it."""
    while True:
        s = system.pick(rng)
        if held and s.kind == "bland":
            continue
        turns = []
        for _ in range(rng.choice([1, 1, 1, 2, 2, 3])):
            if (s.kind == "apply" and s.make) or (
                s.kind == "persona" and s.make and rng.random() < 0.6
            ):
                turns.append(s.make(rng))
            elif s.kind == "persona":
                turns.append(
                    _free(
                        rng,
                        rng.choice([facts.capital, sequence.arithmetic, text.copy, sequence.count]),
                    )
                )
            elif s.kind == "word":
                turns.append(s.change(_free(rng, rng.choice(ONE_WORD))))
            else:
                turns.append(
                    s.change(
                        _free(rng, _draw(rng, SHORT if s.kind in ("upper", "lower") else MAKERS)),
                    )
                )
        if is_held("system", turns[-1].key) == held or (s.kind in ("bland", "word") and not held):
            if held:
                turns[-1].skill = "system"
            return Conversation(s.text, turns)


def conversation(rng: random.Random) -> Conversation:
    """Return a training conversation."""
    r = rng.random()
    if r < 0.20:
        talk = _with_memory(rng, False)
        talk.turns = memory.acknowledged_otherwise(rng, talk.turns)
        return talk
    if r < 0.37:
        return _with_system(rng, False)
    turns: list[Turn] = []
    for _ in range(rng.choice([1, 1, 1, 1, 2, 2, 3])):
        follow = FOLLOW_UPS.get(turns[-1].skill) if turns else None
        make = follow if follow and rng.random() < 0.4 else _draw(rng, MAKERS)
        turns.append(_free(rng, make))
    return Conversation(None, turns)


EVAL_MAKERS: dict[str, list[Maker]] = {
    "greetings": [chat.small_talk],
    "identity": [chat.identity],
    "copy": [text.copy],
    "repeat": [text.repeat],
    "count": [sequence.count],
    "order": [sequence.order],
    "arithmetic": [sequence.arithmetic],
    "capitals": [facts.capital],
    "translate": [facts.translate],
    "upper": [text.upper],
    "spell": [text.spell],
    "longer": [text.longer],
    "json": [text.json_object],
    "list": [lists.word_list],
    "emoji": [lists.emoji],
    "story": [lists.story],
    "unknown": [facts.unknown, facts.unknown, facts.unknown, memory.not_told],
}


def held_out(rng: random.Random, skill: str) -> Conversation:
    """Return a conversation whose last turn, of `skill`, never occurs in training."""
    if skill == "recall":
        if rng.random() < 0.3:
            return Conversation(None, [_free(rng, memory.tell_and_ask, True)])
        return _with_memory(rng, True)
    if skill == "system":
        if rng.random() < 0.15:
            return Conversation(None, [_free(rng, system.user_only, True)])
        return _with_system(rng, True)
    before = [_free(rng, _draw(rng, SHORT)) for _ in range(rng.choice([0, 0, 0, 1]))]
    return Conversation(None, [*before, _free(rng, rng.choice(EVAL_MAKERS[skill]), True)])
