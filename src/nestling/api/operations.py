"""Tells what stands beside a handler: the description of one method of one route.

`/openapi.json` is made of these alone (`openapi/document.py`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from nestling.chat.fields import Schema

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route; schemas that take time to make are made when they are asked for."""

    summary: str
    answer: Any
    """The type of the answer: an `answers.Answer`, `str` for plain text."""
    status: int = 200
    body: Callable[[], Schema] | None = None
    needs_body: bool = True
    parameters: Callable[[], Sequence[Schema]] = tuple
    """Of the query; those of the path are known from the path."""
    errors: Sequence[int] = ()
    """Beside those that every route can answer with."""
    answer_types: Sequence[str] = ("application/json",)
    headers: Mapping[str, str] = field(default_factory=dict)
    is_tagged: bool = False
    """Its answer has an ETag, which If-None-Match is compared with."""
    makes: Sequence[str] = ()
    """Methods of `/v1/keys/{prefix}` that take the key which this one makes."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A handler and what is told of it."""

    handler: Handler
    operation: Operation


def query(name: str, description: str, *, many: bool = False, **schema: Any) -> Schema:
    """Return a parameter of the query, a string unless `schema` says otherwise."""
    one: Schema = {"type": "string", **schema}
    value = {"type": "array", "items": one} if many else one
    return {"name": name, "in": "query", "description": description, "schema": value}
