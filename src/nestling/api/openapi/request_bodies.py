"""JSON Schemas of the inference requests, made from the tables that read them.

What a schema allows is accepted, but for texts that the context does not hold and files that are no
PDFs. The reverse holds but for keys of `logit_bias` in rare scripts or without letters.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nestling.api.requests.chat import (
    FIELDS,
    NEUTRAL_FIELDS,
    SHAPED_FIELDS,
)
from nestling.api.requests.completions import (
    COMPLETION_FIELDS,
    COMPLETION_NEUTRAL_FIELDS,
    MAX_CHOICES,
)
from nestling.chat.fields import Reader, Schema
from nestling.chat.messages import MAX_FILENAME_LENGTH
from nestling.chat.sampling import MAX_BIAS_KEY_LENGTH, MAX_N
from nestling.chat.template import ROLES

_STRING: Schema = {"type": "string"}
_TEXT_KEY = "[A-DF-Za-df-z\u00c0-\u065f\u3040-\u9fff\uac00-\ud7a3]"
"""A letter that makes a key of `logit_bias` text: no number has one."""
_DATA_URL = "".join(
    f"[{c.upper()}{c}]" if c.isalpha() else c for c in "data:application/pdf;base64,"
)
_DIGIT = r"[A-Za-z0-9+/][ \t\r\n]*"
_PADDING = r"=[ \t\r\n]*"
_PDF_BASE64 = (
    r"[ \t\r\n]*"
    + "".join(rf"{c}[ \t\r\n]*" for c in ("J", "V", "B", "E", "R", "i", "[0-3]"))
    + f"(?:{_PADDING}|{_DIGIT}(?:(?:{_DIGIT}){{4}})*"
    + f"(?:(?:{_DIGIT}){{2}}(?:{_PADDING}){{2}}|(?:{_DIGIT}){{3}}{_PADDING})?)"
)
"""Base64 of what begins with `%PDF-`; it may also begin within the first kilobyte."""


def nullable(schema: Schema) -> Schema:
    """Return a schema that also allows null, which is the same as absent everywhere."""
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def chat_schema(
    model_names: Sequence[str],
    system_role: Literal["fold", "refuse"],
    max_file_bytes: int,
    num_text_tokens: int,
) -> Schema:
    """Return the body of POST /v1/chat/completions."""
    roles = [r for r in ROLES if system_role == "fold" or r not in ("system", "developer")]
    properties = {
        "model": {"type": "string", "enum": list(model_names)},
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {"oneOf": [_message(role, max_file_bytes) for role in roles]},
        },
        **_optional(SHAPED_FIELDS, NEUTRAL_FIELDS, num_text_tokens),
    }
    needs_logprobs = {
        "if": {
            "properties": {"top_logprobs": {"type": "integer", "minimum": 1}},
            "required": ["top_logprobs"],
        },
        "then": {"properties": {"logprobs": {"const": True}}, "required": ["logprobs"]},
    }
    return _object(properties, ("model", "messages")) | needs_logprobs


def completion_schema(model_names: Sequence[str], num_text_tokens: int) -> Schema:
    """Return the body of POST /v1/completions."""
    ids = {"type": "integer", "minimum": 0, "maximum": num_text_tokens - 1}
    token_ids: Schema = {"type": "array", "items": ids, "minItems": 1}
    several = {"type": "array", "items": {"anyOf": [_STRING, token_ids]}, "minItems": 1}
    properties = {
        "model": {"type": "string", "enum": list(model_names)},
        "prompt": {
            "anyOf": [
                _STRING,
                token_ids,
                {**several, "maxItems": MAX_CHOICES},
            ],
            "description": f"Prompts times n is at most {MAX_CHOICES}.",
        },
        **_optional(COMPLETION_FIELDS, COMPLETION_NEUTRAL_FIELDS, num_text_tokens),
        "suffix": {"type": ["string", "null"], "maxLength": 0},
    }
    no_echoed_logprobs = {
        "if": {"properties": {"echo": {"const": True}}, "required": ["echo"]},
        "then": {"properties": {"logprobs": {"type": "null"}}},
    }
    by_n = {"anyOf": [_choices(n) for n in range(1, MAX_N + 1)]}
    return _object(properties, ("model", "prompt")) | no_echoed_logprobs | by_n


def _choices(n: int) -> Schema:
    """Return what goes with `n` choices a prompt: the same `best_of`, and not too many prompts."""
    few = {"maxItems": MAX_CHOICES // n}
    properties: Schema = {
        "n": {"enum": [1, None] if n == 1 else [n]},
        "best_of": {"enum": [n, None]},
        "prompt": {"anyOf": [_STRING, {"items": {"type": "integer"}}, few]},
    }
    return {"properties": properties, "required": [] if n == 1 else ["n"]}


def _object(properties: Schema, required: Sequence[str]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": True,
    }


def _optional(
    shaped: Mapping[str, Reader], neutral: Mapping[str, tuple[Any, ...]], num_text_tokens: int
) -> dict[str, Schema]:
    """Return the fields that may be absent or null."""
    readers = {**FIELDS, **shaped}
    schemas = {name: nullable(reader.schema()) for name, reader in readers.items()}
    only = {
        name: {"enum": [*values, None], "description": "Accepted and without effect."}
        for name, values in neutral.items()
    }
    return {**schemas, **only, **_special(num_text_tokens)}


def _special(num_text_tokens: int) -> dict[str, Schema]:
    return {
        "logit_bias": {
            **nullable(FIELDS["logit_bias"].schema()),
            "propertyNames": {
                "maxLength": MAX_BIAS_KEY_LENGTH,
                "anyOf": [{"pattern": _below(num_text_tokens)}, {"pattern": _TEXT_KEY}],
            },
            "description": "Keys are token ids in decimal digits, or text whose tokens are biased.",
        },
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
        },
    }


def _below(limit: int) -> str:
    """Return the pattern of decimal ids below `limit`; zeros may lead while they fit its length."""
    digits = str(limit)
    ways = [
        f"{digits[:i]}[0-{int(digit) - 1}][0-9]{{{len(digits) - i - 1}}}"
        for i, digit in enumerate(digits)
        if digit != "0"
    ]
    shorter = [f"[0-9]{{1,{len(digits) - 1}}}"] if len(digits) > 1 else []
    return f"^(?:{'|'.join(shorter + ways)})$"


def _message(role: str, max_file_bytes: int) -> Schema:
    parts = [_part("text", _STRING)]
    if role == "user":
        parts.append(_part("file", _file(max_file_bytes)))
    if role == "assistant":
        parts.append(_part("refusal", _STRING))
    several = {"type": "array", "items": {"oneOf": parts}, "minItems": 1}
    content: Schema = {"anyOf": [_STRING, several]}
    nothing: Schema = {"enum": [None, [], {}]}
    properties = {
        "role": {"type": "string", "const": role},
        "content": nullable(content) if role == "assistant" else content,
        "name": {"type": ["string", "null"]},
        "tool_calls": nothing,
        "function_call": nothing,
        "audio": nothing,
    }
    return _object(properties, ("role",) if role == "assistant" else ("role", "content"))


def _part(kind: str, value: Schema) -> Schema:
    return _object({"type": {"type": "string", "const": kind}, kind: value}, ("type", kind))


def _file(max_file_bytes: int) -> Schema:
    data = {
        "type": "string",
        "pattern": f"^(?:{_DATA_URL})?{_PDF_BASE64}$",
        "contentMediaType": "application/pdf",
        "contentEncoding": "base64",
        "description": f"A PDF with text, of at most {max_file_bytes} bytes.",
    }
    filename = {"type": ["string", "null"], "maxLength": MAX_FILENAME_LENGTH}
    properties = {"file_data": data, "filename": filename, "file_id": {"type": "null"}}
    return _object(properties, ("file_data",))
