"""`messages` of a chat request: roles, text and content parts, names.

Text parts of one message are joined by nothing, as the model's template does. Parts that are no
text are refused by their index. Same-role turns and system texts are left to the template.
"""

from typing import Any, Literal, get_args

from nestling.api.fields import (
    Text,
    invalid,
    missing,
    not_supported,
    read_array,
    shown,
    wrong_type,
)
from nestling.chat.template import ChatMessage
from nestling.errors import InvalidRequestError

Role = Literal["system", "developer", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)
_OTHER_ROLES = ("tool", "function")
_OTHER_PARTS = ("file", "image_url", "input_audio", "image", "audio", "video_url")
_STRING = Text()


def read_messages(value: Any) -> tuple[ChatMessage, ...]:
    """Return the conversation; it has at least one message."""
    if value is None:
        raise missing("messages")
    items = read_array("messages", value)
    if not items:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, "
        raise invalid(message + "but got an empty array instead.", "messages", "empty_array")
    roles, texts, names = [], [], []
    for index, item in enumerate(items):
        at = f"messages[{index}]"
        if not isinstance(item, dict):
            raise wrong_type(at, "an object", item)
        roles.append(_read_role(f"{at}.role", item.get("role")))
        texts.append(_read_content(f"{at}.content", item.get("content"), roles[-1]))
        names.append(_read_name(f"{at}.name", item.get("name")))
        _refuse_calls(at, item)
    shown_names = _told_apart(roles, names)
    return tuple(
        ChatMessage(role, f"{name}: {text}" if name else text)
        for role, text, name in zip(roles, texts, shown_names, strict=True)
    )


def _read_role(name: str, value: Any) -> Role:
    if value is None:
        raise missing(name)
    _STRING.read(name, value)
    for role in get_args(Role):
        if value == role:
            return role  # type: ignore[no-any-return]
    if value in _OTHER_ROLES:
        raise not_supported(name, f": there are no tools, so no messages of role '{value}'")
    raise _not_among(name, value, ROLES)


def _not_among(name: str, value: str, supported: tuple[str, ...]) -> InvalidRequestError:
    wanted = ", ".join(f"'{item}'" for item in supported)
    message = f"Invalid value for '{name}': '{shown(value)}'. Supported values are: {wanted}."
    return invalid(message, name, "invalid_value")


def _read_content(name: str, value: Any, role: Role) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        if role == "assistant":
            return ""
        raise missing(name)
    if not isinstance(value, list):
        raise wrong_type(name, "a string or an array of parts", value)
    return "".join(_read_part(f"{name}[{i}]", part, role) for i, part in enumerate(value))


def _read_part(name: str, part: Any, role: Role) -> str:
    if not isinstance(part, dict):
        raise wrong_type(name, "an object", part)
    kind = part.get("type")
    if kind is None:
        raise missing(f"{name}.type")
    _STRING.read(f"{name}.type", kind)
    if kind == "text" or (kind == "refusal" and role == "assistant"):
        if part.get(kind) is None:
            raise missing(f"{name}.{kind}")
        return _STRING.read(f"{name}.{kind}", part[kind])
    if kind in _OTHER_PARTS:
        message = f"Unsupported content part: '{name}' has type '{kind}', which is not supported "
        raise invalid(message + "by this server; send text.", name, "unsupported_content_part")
    raise _not_among(f"{name}.type", kind, ("text",))


def _read_name(name: str, value: Any) -> str | None:
    return None if value is None else _STRING.read(name, value)


def _refuse_calls(at: str, item: dict[str, Any]) -> None:
    for name in ("tool_calls", "function_call", "audio"):
        if item.get(name) not in (None, []):
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
