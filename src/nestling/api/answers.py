"""Holds what answers are made of. Each body is an `Answer`, which is encoded as it stands.

The OpenAPI document takes its schemas from these classes (`openapi/document.py`), so a body and its
schema cannot part. A field that may be absent has the default `UNSET`; any other is always there.
"""

from typing import Annotated, Literal

import msgspec

from nestling.accounts.money import credits_of
from nestling.accounts.money import usd as usd_of

Count = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Time = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
"""As `server.answers.time_text` writes it."""


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON object that has these keys in this order, and no others."""


class Status(Answer):
    """Tells a probe that all is well."""

    status: Literal["ok"]


class Cost(Answer):
    """Tells what a reply is charged, in both currencies."""

    usd: Amount
    credits: Count


class Tokens(Answer):
    """Tokens of one reply or of many."""

    input: Count
    output: Count
    total: Count


def cost(nano_usd: int) -> Cost:
    """Return an amount in both currencies."""
    return Cost(usd_of(nano_usd), credits_of(nano_usd))


def tokens(num_prompt: int, num_completion: int) -> Tokens:
    """Return both counts and their sum."""
    return Tokens(num_prompt, num_completion, num_prompt + num_completion)
