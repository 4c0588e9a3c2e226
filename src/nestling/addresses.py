"""Listening addresses, host names and web origins, as people write them in settings.

Text that can only mean one thing is brought to the form that is compared later. Other text raises
a `ValueError` that says what was expected, with the right form of what came where it can be told.
"""

import ipaddress
import re
from contextlib import suppress

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_URL = re.compile(r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?(?P<host>\[[^\]]*\]|[^:/]*).*", re.DOTALL)
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[^\]]*\]|[^:/\[\]]*)(?::(?P<port>[0-9]{1,5}))?/?"
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def listen_address(text: str) -> str:
    """Return an address to listen on: a name, an IPv4 address, or an IPv6 one without brackets."""
    if text == "*":
        raise ValueError("an address; 0.0.0.0 and :: are all of this machine")
    name = _host(text)
    if name is None:
        raise ValueError(f"a host name or address alone, such as {_meant_host(text)}")
    return name.strip("[]")


def host_name(text: str) -> str:
    """Return a name as it stands in a Host header: in lower case, IPv6 in brackets, no port."""
    name = _host(text)
    if name is None:
        raise ValueError(
            f"a host name without port, scheme or wildcard, such as {_meant_host(text)}"
        )
    return name


def web_origin(text: str) -> str:
    """Return an origin as browsers send it, such as https://example.org, or `*` or `null`."""
    origin = text.strip().lower()
    if origin in ("*", "null"):
        return origin
    match = _ORIGIN.fullmatch(origin)
    host = _host(match["host"]) if match else None
    if match is None or host is None or int(match["port"] or 0) > 65535:
        raise ValueError(f"an origin without path or wildcard, such as {_meant_origin(origin)}")
    port = "" if match["port"] in (None, _DEFAULT_PORTS.get(match["scheme"])) else match["port"]
    return f"{match['scheme']}://{host}" + (f":{int(port)}" if port else "")


def _host(text: str) -> str | None:
    """Return a host name or address in its usual form; None if it is neither."""
    name = text.strip().lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(name[1:-1] if name[:1] + name[-1:] == "[]" else name)
    except ValueError:
        is_number = _NUMBER.fullmatch(name.rpartition(".")[2]) is not None
        return name if _NAME.fullmatch(name) and not is_number else None
    return f"[{address}]" if address.version == 6 else str(address)


def _meant_host(text: str) -> str:
    """Return the host that somebody has probably meant, else an example."""
    match = _URL.fullmatch(text.strip().lower())
    part = match["host"].removeprefix("*.") if match else ""
    with suppress(UnicodeError):
        part = part.encode("idna").decode("ascii")
    return _host(part) or "example.org"


def _meant_origin(text: str) -> str:
    match = _URL.fullmatch(text)
    return f"{(match and match['scheme']) or 'https'}://{_meant_host(text)}"
