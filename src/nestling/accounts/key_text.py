"""The text of an API key, and the hash that is kept of it.

    g3n_live_ + 8 characters (public prefix) + 32 random ones (190 bits) + 6 (CRC-32 of the rest)

All base62. The checksum lets a wrong key be refused, and a leaked one be recognised by a scanner
(`g3n_live_[0-9A-Za-z]{46}`), without asking the database. Only an HMAC is stored.
"""

import hashlib
import hmac
import secrets
import string
import zlib
from dataclasses import dataclass

KEY_MARK = "g3n_live_"
PREFIX_LENGTH = 8
_RANDOM_LENGTH = 32
_CHECKSUM_LENGTH = 6
_LENGTH = len(KEY_MARK) + PREFIX_LENGTH + _RANDOM_LENGTH + _CHECKSUM_LENGTH
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase


@dataclass(frozen=True, slots=True)
class NewKeyText:
    """A fresh key; `secret` is shown once and never stored."""

    prefix: str
    secret: str

    def __repr__(self) -> str:
        """Keep the secret out of logs and tracebacks."""
        return f"NewKeyText(prefix={self.prefix!r})"


def new_key_text() -> NewKeyText:
    """Draw a key from the operating system's entropy."""
    prefix = _random_text(PREFIX_LENGTH)
    body = KEY_MARK + prefix + _random_text(_RANDOM_LENGTH)
    return NewKeyText(prefix, body + _checksum(body))


def prefix_of(secret: str) -> str | None:
    """Return the prefix of a well-formed key text, None for any other text."""
    if len(secret) != _LENGTH or not secret.startswith(KEY_MARK) or not secret.isascii():
        return None
    body, checksum = secret[:-_CHECKSUM_LENGTH], secret[-_CHECKSUM_LENGTH:]
    if not hmac.compare_digest(_checksum(body), checksum):
        return None
    return secret[len(KEY_MARK) : len(KEY_MARK) + PREFIX_LENGTH]


def key_hash(secret: str, pepper: bytes) -> str:
    """Return the HMAC-SHA-256 of a key in hex, which is what is stored."""
    return hmac.new(pepper, secret.encode("ascii"), hashlib.sha256).hexdigest()


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode("ascii"))
    digits = []
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
