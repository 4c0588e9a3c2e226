"""Where the server listens, by what its host means."""

import socket

import pytest

from nestling.errors import SettingsError
from nestling.server.listening import listen, reach


def addresses(host: str, port: int = 0) -> list[tuple[str, int]]:
    listeners = listen(host, port)
    found = [listener.getsockname()[:2] for listener in listeners]
    for listener in listeners:
        listener.close()
    return found


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


has_ipv6 = pytest.mark.skipif(
    not socket.has_dualstack_ipv6(), reason="this machine has no IPv6 beside IPv4"
)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=has_ipv6)])
def test_an_address_is_one_socket(host: str) -> None:
    ((address, port),) = addresses(host)
    assert address == host
    assert port > 0


@has_ipv6
def test_localhost_is_both_loopback_addresses_on_one_port() -> None:
    first, second = addresses("localhost")
    assert (first[0], second[0]) == ("127.0.0.1", "::1")
    assert first[1] == second[1]


def test_localhost_without_ipv6_is_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def only_ipv4(address: tuple[str, int], **options: object) -> socket.socket:
        if address[0] == "::1":
            raise OSError(99, "Cannot assign requested address")
        return create(address, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_server", only_ipv4)
    assert [address for address, _ in addresses("localhost")] == ["127.0.0.1"]


@has_ipv6
def test_every_address_of_both_families() -> None:
    (listener,) = listen("::", 0)
    with listener:
        port = listener.getsockname()[1]
        assert answers("127.0.0.1", port)
        assert answers("::1", port)
    assert reach("::") == "all IPv6 and IPv4 addresses"


def test_what_a_host_means_is_said() -> None:
    assert reach("0.0.0.0") == "all IPv4 addresses"  # noqa: S104 - nothing listens there
    assert reach("localhost") == "127.0.0.1 and ::1"
    assert reach("127.0.0.1") == "127.0.0.1"


def test_a_port_that_is_taken_in_one_family_is_refused() -> None:
    """Nothing stays open of the other."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"host localhost, port {port}: cannot listen"):
            listen("localhost", port)
        assert not answers("::1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_a_host_that_is_not_of_this_machine(host: str) -> None:
    with pytest.raises(SettingsError, match=f"host {host}, port 0: cannot listen there: "):
        listen(host, 0)
