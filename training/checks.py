"""Scores a reply against a check; pure Python, so that tests can use it without torch.

Kinds: exact, any_of, regex, contains_all, json, story, list, emoji. A reply must have ended by
itself.
"""

import json
import re
from collections.abc import Callable
from typing import Any

Check = dict[str, Any]


def _exact(reply: str, check: Check) -> bool:
    return bool(reply == check["value"])


def _any_of(reply: str, check: Check) -> bool:
    return reply in check["values"]


def _regex(reply: str, check: Check) -> bool:
    return re.fullmatch(check["pattern"], reply, re.DOTALL) is not None


def _contains_all(reply: str, check: Check) -> bool:
    return all(v.lower() in reply.lower() for v in check["values"])


def _json(reply: str, check: Check) -> bool:
    try:
        return bool(json.loads(reply) == check["value"])
    except ValueError:
        return False


def count_sentences(text: str) -> int:
    """Return the number of sentence ends."""
    return len(re.findall(r"[.!?]+(?=\s|$|[\"'”])", text.strip()))


def _story(reply: str, check: Check) -> bool:
    low, high = check.get("min", 2), check.get("max", 4)
    words = check.get("words", [])
    ended = reply.endswith((".", "!", "?", '"', "”"))
    return (
        ended
        and low <= count_sentences(reply) <= high
        and all(w.lower() in reply.lower() for w in words)
    )


def _list(reply: str, check: Check) -> bool:
    allowed = {w.lower() for w in check["allowed"]}
    items = [
        i.strip(" .-*\t").lower() for i in re.split(r",|\n|\band\b", reply) if i.strip(" .-*\t")
    ]
    items = [re.sub(r"^\d+[.)]\s*", "", i) for i in items]
    unique = len(set(items)) == len(items)
    return (
        unique and len(items) == check.get("count", len(items)) and all(i in allowed for i in items)
    )


def _emoji(reply: str, check: Check) -> bool:
    allowed = check.get("allowed")
    if allowed:
        return reply in allowed
    return bool(reply) and all(ord(c) >= 0x2190 or c.isspace() for c in reply)


CHECKS: dict[str, Callable[[str, Check], bool]] = {
    "exact": _exact,
    "any_of": _any_of,
    "regex": _regex,
    "contains_all": _contains_all,
    "json": _json,
    "story": _story,
    "list": _list,
    "emoji": _emoji,
}


def passes(reply: str, check: Check, has_ended: bool = True) -> bool:
    """Return whether the reply (ended by its own end of turn) satisfies the check."""
    return has_ended and CHECKS[check["kind"]](reply.strip(), check)
