"""Bodies of /v1/keys: what a key can be made with and what of it can be changed."""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from nestling.accounts.api_keys import MAX_NAME_LENGTH, NAME_PATTERN, is_printable
from nestling.accounts.key_records import SCOPES, NewKey, Retention, SpendLimit
from nestling.accounts.money import NANO_USD
from nestling.chat.fields import (
    Boolean,
    Number,
    Object,
    Schema,
    Text,
    invalid,
    missing,
    not_among,
    read_array,
)
from nestling.errors import shown

RETENTIONS: tuple[str, ...] = get_args(Retention)
MAX_LIMIT_USD = 1_000_000_000
MIN_LIMIT_USD = 1 / NANO_USD
"""Of limits above 0: nothing smaller is counted."""
CREATE_FIELDS = ("name", "limit", "scopes", "expires_at")
CHANGE_FIELDS = ("name", "disabled", "limit", "scopes")


def read_new_key(raw: Mapping[str, Any]) -> NewKey:
    """Validate the body of a POST; raises `InvalidRequestError`."""
    _refuse_unknown(raw, CREATE_FIELDS)
    return NewKey(
        name=_read_name(raw.get("name")),
        limit=_read_limit(raw.get("limit")),
        scopes=_read_scopes(raw.get("scopes")),
        expires_at=_read_expiry(raw.get("expires_at")),
    )


def read_key_changes(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Validate the body of a PATCH or PUT: arguments of `KeyStore.update`."""
    _refuse_unknown(raw, CHANGE_FIELDS)
    readers: Mapping[str, Callable[[Any], Any]] = {
        "name": _read_name,
        "limit": _read_limit,
        "scopes": _read_scopes,
    }
    changes: dict[str, Any] = {
        name: read(raw[name]) for name, read in readers.items() if name in raw
    }
    if raw.get("disabled") is not None:
        changes["disabled"] = Boolean().read("disabled", raw["disabled"])
    return changes


def _refuse_unknown(raw: Mapping[str, Any], known: Collection[str], at: str = "") -> None:
    for name in raw:
        if name not in known:
            message = f"Unknown parameter: '{at}{shown(name)}'. Known are: {', '.join(known)}."
            raise invalid(message, f"{at}{shown(name)}", "unknown_parameter")


def _read_name(value: Any) -> str | None:
    if value is None:
        return None
    name = Text(1, MAX_NAME_LENGTH).read("name", value)
    if not is_printable(name):
        message = "Invalid 'name': expected printable characters only."
        raise invalid(message, "name", "invalid_value")
    return name


def _read_limit(value: Any) -> SpendLimit | None:
    if value is None:
        return None
    limit = Object().read("limit", value)
    _refuse_unknown(limit, ("retention", "threshold"), "limit.")
    for name in ("retention", "threshold"):
        if limit.get(name) is None:
            raise missing(f"limit.{name}")
    retention = Text().read("limit.retention", limit["retention"])
    for known in get_args(Retention):
        if retention == known:
            threshold = Number(0, MAX_LIMIT_USD).read("limit.threshold", limit["threshold"])
            if threshold > 0:
                Number(MIN_LIMIT_USD).check("limit.threshold", threshold, "decimal")
            return SpendLimit(known, round(threshold * NANO_USD))
    raise not_among("limit.retention", retention, RETENTIONS)


def _read_scopes(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    scopes = read_array("scopes", value, maximum=len(SCOPES))
    for index, scope in enumerate(scopes):
        name = f"scopes[{index}]"
        if Text().read(name, scope) not in SCOPES:
            raise not_among(name, scope, SCOPES)
    return tuple(dict.fromkeys(scopes))


def _read_expiry(value: Any) -> datetime | None:
    if value is None:
        return None
    text = Text(1, 64).read("expires_at", value)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        message = "Invalid 'expires_at': expected a time with its zone, such as "
        message += f"2030-01-01T00:00:00Z, but got '{shown(text)}'."
        raise invalid(message, "expires_at", "invalid_value")
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        message = "Invalid 'expires_at': expected a time in the years 1 to 9999 UTC, but got "
        raise invalid(f"{message}'{shown(text)}'.", "expires_at", "invalid_value") from None
    if moment <= datetime.now(UTC):
        message = f"Invalid 'expires_at': expected a time to come, but got '{shown(text)}'."
        raise invalid(message, "expires_at", "invalid_value")
    return moment


def new_key_schema() -> Schema:
    """Return what `read_new_key` takes, as JSON Schema."""
    expiry = {
        "type": ["string", "null"],
        "format": "date-time",
        "description": "A time to come. Not in the hosted API.",
    }
    return _schema(expires_at=expiry)


def key_changes_schema() -> Schema:
    """Return what `read_key_changes` takes, as JSON Schema."""
    return _schema(disabled={"type": ["boolean", "null"]})


def _schema(**more: Schema) -> Schema:
    retention = {"type": "string", "enum": list(RETENTIONS)}
    least = {"anyOf": [{"const": 0}, {"minimum": MIN_LIMIT_USD}]}
    threshold = {"type": "number", "maximum": MAX_LIMIT_USD, **least}
    name = {"minLength": 1, "maxLength": MAX_NAME_LENGTH, "pattern": NAME_PATTERN}
    scope = {"type": "string", "enum": list(SCOPES)}
    properties = {
        "name": {"type": ["string", "null"], **name},
        "limit": {
            "type": ["object", "null"],
            "properties": {"retention": retention, "threshold": threshold},
            "required": ["retention", "threshold"],
            "additionalProperties": False,
        },
        "scopes": {"type": ["array", "null"], "items": scope, "maxItems": len(SCOPES)},
        **more,
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}
