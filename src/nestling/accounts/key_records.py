"""Records of API keys and of what they may be used for. Plain data; knows no database."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from nestling.accounts.money import usd
from nestling.errors import PermissionDeniedError, QuotaExceededError

KeyKind = Literal["api", "management"]
Retention = Literal["no_reset", "day", "week", "month"]
SCOPES = (
    "model:chat",
    "model:responses",
    "model:image",
    "model:audio",
    "model:video",
    "model:embeddings",
    "model:speech",
    "model:ocr",
)
"""The hosted API's names. Only chat is served here."""
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class SpendLimit:
    """The most that may be spent in one window of time."""

    retention: Retention
    threshold_nano_usd: int

    def window_start(self, now: datetime) -> datetime:
        """Return when the window that holds `now` began: 00:00 UTC, weeks on Mondays."""
        if self.retention == "no_reset":
            return _EPOCH
        day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self.retention == "day":
            return day
        if self.retention == "week":
            return day - timedelta(days=day.weekday())
        return day.replace(day=1)

    def refusal(self, spent: int, reserved: int) -> QuotaExceededError:
        """Return the error for a request that does not fit; amounts are nano-USD."""
        every = "" if self.retention == "no_reset" else f" a {self.retention}"
        return QuotaExceededError(
            f"You've run out of credits. This key's limit is ${usd(self.threshold_nano_usd):g}"
            f"{every}, ${usd(spent):.9g} of it are spent and ${usd(reserved):.9g} are held by "
            "requests that are running. Raise the key's limit or ask for fewer tokens."
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. Times are UTC."""

    key_id: str
    prefix: str
    """The 8 unique characters of the key's text that may be shown again."""
    name: str | None
    kind: KeyKind
    disabled: bool
    scopes: tuple[str, ...] | None
    """The scopes of an inference key. None means all."""
    limit: SpendLimit | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None

    def is_expired(self, now: datetime) -> bool:
        """Tell whether the key has run out."""
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True)
class NewKey:
    """The properties of a key that is to be made."""

    name: str | None = None
    kind: KeyKind = "api"
    scopes: tuple[str, ...] | None = None
    limit: SpendLimit | None = None
    expires_at: datetime | None = None


def require_scope(key: ApiKey, scope: str) -> None:
    """Raise `PermissionDeniedError` unless the key may be used for `scope`."""
    if key.kind != "api":
        raise PermissionDeniedError(
            "A management key cannot be used for inference; use an API key.",
            code="inference_key_required",
        )
    if key.scopes is not None and scope not in key.scopes:
        allowed = ", ".join(key.scopes) or "nothing"
        raise PermissionDeniedError(
            f"This API key may not be used for {scope}; its scopes allow {allowed}.",
            code="scope_not_allowed",
        )
