"""`messages` of a chat request: roles, text and content parts, names.

Text parts of one message are joined by nothing, as the model's template does. PDFs are kept beside
the text with their places; other parts are refused by their index. Same-role turns and system texts
are left to the template.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from nestling.chat.fields import (
    Text,
    empty_array,
    invalid,
    missing,
    not_among,
    not_supported,
    read_array,
    wrong_type,
)
from nestling.chat.template import ROLES, AttachedFile, ChatMessage, Role
from nestling.errors import ContextLengthExceededError, InvalidRequestError, shown

_OTHER_ROLES = ("tool", "function")
_OTHER_PARTS = ("file", "image_url", "input_audio", "image", "audio", "video_url")
_MESSAGE_FIELDS = frozenset(
    {
        *("role", "content", "name", "tool_calls", "function_call", "audio"),
        *("refusal", "reasoning_content", "annotations"),  # as answers have them
    }
)
_STRING = Text()
_BREAKS = b" \t\r\n"
MAX_FILES = 8
"""In all messages of a request together."""
MAX_FILENAME_LENGTH = 255


@dataclass(frozen=True, slots=True)
class MessageLimits:
    """Tells what the settings say about messages."""

    max_file_bytes: int = 8 * 2**20
    system_role: Literal["fold", "refuse"] = "fold"
    max_messages: int = 2**31
    """The context's tokens: of more messages each would have less than one."""


def read_messages(value: Any, limits: MessageLimits) -> tuple[ChatMessage, ...]:
    """Return the conversation; it has at least one message."""
    if value is None:
        raise missing("messages")
    items = read_array("messages", value)
    if not items:
        raise empty_array("messages")
    if len(items) >= limits.max_messages:
        raise ContextLengthExceededError(
            f"This model's context holds {limits.max_messages} tokens, but there are {len(items)} "
            "messages, and each takes one token at least. Please shorten the messages.",
            param="messages",
        )
    messages, names = [], []
    for index, item in enumerate(items):
        at = f"messages[{index}]"
        if not isinstance(item, dict):
            raise wrong_type(at, "an object", item)
        role = _read_role(f"{at}.role", item.get("role"), limits)
        messages.append(_read_content(f"{at}.content", item.get("content"), role, limits))
        names.append(_read_name(f"{at}.name", item.get("name")))
        _refuse_calls(at, item)
    _check_num_files(messages)
    shown_names = _told_apart([message.role for message in messages], names)
    return tuple(
        _with_name(message, name) if name else message
        for message, name in zip(messages, shown_names, strict=True)
    )


def unknown_message_fields(messages: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the names in messages that were read and their parts which nobody documents."""
    found = set()
    for item in messages:
        names = {name for name, value in item.items() if value is not None} - _MESSAGE_FIELDS
        found |= {f"messages[].{name}" for name in names}
        content = item.get("content")
        for part in content if isinstance(content, list) else ():
            known = {"type", part["type"]}
            found |= {f"messages[].content[].{name}" for name in part.keys() - known}
    return found


def _check_num_files(messages: Sequence[ChatMessage]) -> None:
    files = [file for message in messages for file in message.files]
    if len(files) > MAX_FILES:
        wanted = f"Expected at most {MAX_FILES} files, but got {len(files)} instead."
        message = f"Invalid 'messages': too many files. {wanted}"
        raise invalid(message, "messages", "array_above_max_length")


def _with_name(message: ChatMessage, name: str) -> ChatMessage:
    lead = f"{name}: "
    files = tuple(replace(file, at=file.at + len(lead)) for file in message.files)
    return ChatMessage(message.role, lead + message.text, files)


def _read_role(name: str, value: Any, limits: MessageLimits) -> Role:
    if value is None:
        raise missing(name)
    _STRING.read(name, value)
    if value in ("system", "developer") and limits.system_role == "refuse":
        message = f"Unsupported value: '{name}' does not support '{value}' with this model."
        raise invalid(message, name, "unsupported_value")
    for role in ROLES:
        if value == role:
            return role
    if value in _OTHER_ROLES:
        raise not_supported(name, f": there are no tools, so no messages of role '{value}'")
    raise not_among(name, value, ROLES)


def _read_content(name: str, value: Any, role: Role, limits: MessageLimits) -> ChatMessage:
    if isinstance(value, str):
        return ChatMessage(role, value)
    if value is None:
        if role == "assistant":
            return ChatMessage(role, "")
        raise missing(name)
    if not isinstance(value, list):
        raise wrong_type(name, "a string or an array of parts", value)
    if not value:
        raise empty_array(name)
    text, files = "", []
    for index, part in enumerate(value):
        at = f"{name}[{index}]"
        kind = _read_kind(at, part)
        if kind == "file" and role == "user":
            files.append(_read_file(at, part.get("file"), len(text), limits))
        else:
            text += _read_text(at, part, kind, role)
    return ChatMessage(role, text, tuple(files))


def _read_kind(name: str, part: Any) -> str:
    if not isinstance(part, dict):
        raise wrong_type(name, "an object", part)
    kind = part.get("type")
    if kind is None:
        raise missing(f"{name}.type")
    return _STRING.read(f"{name}.type", kind)


def _read_text(name: str, part: Mapping[str, Any], kind: str, role: Role) -> str:
    if kind == "text" or (kind == "refusal" and role == "assistant"):
        if part.get(kind) is None:
            raise missing(f"{name}.{kind}")
        return _STRING.read(f"{name}.{kind}", part[kind])
    if kind in _OTHER_PARTS:
        where = "in messages of the role 'user' only" if kind == "file" else "by no message here"
        message = f"Unsupported content part: '{name}' has type '{kind}', which is not supported; "
        message += f"it is taken {where}. Send text."
        raise invalid(message, name, "unsupported_content_part")
    raise not_among(f"{name}.type", kind, ("text", "file") if role == "user" else ("text",))


def _read_file(name: str, value: Any, at: int, limits: MessageLimits) -> AttachedFile:
    """Return a PDF part; only what its bytes look like is left to the one who reads it."""
    if value is None:
        raise missing(f"{name}.file")
    if not isinstance(value, dict):
        raise wrong_type(f"{name}.file", "an object", value)
    if value.get("file_id") is not None:
        raise not_supported(f"{name}.file.file_id", "; send the file itself in file_data")
    filename = value.get("filename")
    if filename is not None:
        Text(max_length=MAX_FILENAME_LENGTH).read(f"{name}.file.filename", filename)
    data = _read_file_data(f"{name}.file.file_data", value.get("file_data"), limits)
    return AttachedFile(at, filename, data, f"{name}.file.file_data")


def _read_file_data(name: str, value: Any, limits: MessageLimits) -> bytes:
    if value is None:
        raise missing(name)
    text = _STRING.read(name, value)
    head, separator, rest = text.partition(",")
    if separator and head.lower() != "data:application/pdf;base64":
        came = f"got '{shown(head)}'"
        message = f"Unsupported file: '{name}' must be base64, alone or after "
        message += f"'data:application/pdf;base64,', but {came}."
        raise invalid(message, name, "unsupported_content_part")
    encoded = _without_breaks(name, rest if separator else text)
    num_bytes = len(encoded) * 3 // 4
    if num_bytes > limits.max_file_bytes + 2:
        message = f"Invalid '{name}': the file is too large. Expected at most "
        message += f"{limits.max_file_bytes} bytes, but got about {num_bytes} instead."
        raise invalid(message, name, "string_above_max_length")
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise _no_base64(name, encoded.decode("ascii")) from None
    if b"%PDF-" not in data[:1024]:
        message = f"Invalid '{name}': expected a PDF, but its bytes begin with {data[:8]!r}."
        raise invalid(message, name, "invalid_file")
    return data


def _without_breaks(name: str, text: str) -> bytes:
    """Return base64 without the line breaks and blanks that MIME puts between its lines."""
    if not text.isascii():
        raise _no_base64(name, text)
    return text.encode("ascii").translate(None, _BREAKS)


def _no_base64(name: str, text: str) -> InvalidRequestError:
    message = f"Invalid '{name}': expected base64, but got '{text[:20]}...'."
    return invalid(message, name, "invalid_value")


def _read_name(name: str, value: Any) -> str | None:
    return None if value is None else _STRING.read(name, value)


def _refuse_calls(at: str, item: dict[str, Any]) -> None:
    for name in ("tool_calls", "function_call", "audio"):
        if item.get(name) not in (None, [], {}):
            raise not_supported(f"{at}.{name}", "")


def _told_apart(roles: list[Role], names: list[str | None]) -> list[str | None]:
    """Keep the names of roles that two or more participants share; one voice needs no name."""
    voices: dict[Role, set[str]] = {}
    for role, name in zip(roles, names, strict=True):
        if name:
            voices.setdefault(role, set()).add(name)
    return [
        name if len(voices.get(role, ())) > 1 else None
        for role, name in zip(roles, names, strict=True)
    ]
