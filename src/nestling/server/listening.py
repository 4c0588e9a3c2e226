"""Opens the sockets that the server listens on: one for each address that its host means."""

import errno
import socket

from nestling.errors import SettingsError

_BACKLOG = 2048
_LOOPBACK = ("127.0.0.1", "::1")
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_HAS_DUAL_STACK = socket.has_dualstack_ipv6()
_NUM_TRIES = 10
"""Attempts to find a port that is free in both families, if any port will do."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets, all on one port; raise `SettingsError` if that cannot be.

    `localhost` is both loopback addresses, as far as this machine has them, and `::` is every
    address of both families.
    """
    for tries_left in reversed(range(_NUM_TRIES)):
        try:
            return _listen(host, port)
        except OSError as error:
            if port == 0 and error.errno == errno.EADDRINUSE and tries_left:
                continue  # the port is free in one family, and taken in the other
            reason = error.strerror or str(error)
            raise SettingsError(
                f"host {host}, port {port}: cannot listen there: {reason}", param="port"
            ) from None
    raise AssertionError


def reach(host: str) -> str:
    """Return what a server with this host can be reached from, as people would say it."""
    if host == "::":
        return "all IPv6 and IPv4 addresses" if _HAS_DUAL_STACK else "all IPv6 addresses"
    if host == "0.0.0.0":  # noqa: S104 - only compared
        return "all IPv4 addresses"
    return " and ".join(_LOOPBACK) if host == "localhost" else host


def _listen(host: str, port: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    try:
        for address in _LOOPBACK if host == "localhost" else (host,):
            chosen = listeners[0].getsockname()[1] if listeners else port
            try:
                listeners.append(_listener(address, chosen))
            except OSError as error:
                if not listeners or error.errno not in _NO_SUCH_ADDRESS:
                    raise
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listener(address: str, port: int) -> socket.socket:
    listener = socket.create_server(
        (address, port),
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        backlog=_BACKLOG,
        dualstack_ipv6=address == "::" and _HAS_DUAL_STACK,
    )
    # Accepted sockets inherit it. asyncio's own loop would leave it off, and the second write of
    # every answer on a kept connection would wait 40 ms for the client's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
