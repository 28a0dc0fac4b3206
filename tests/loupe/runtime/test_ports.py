"""Listening on names and addresses, tried by connecting."""

import socket

import pytest

from loupe.errors import ProgramFailed
from loupe.runtime.ports import free_port, listen, url_of

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


@needs_ipv6
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("0.0.0.0", (True, True)),  # noqa: S104 - this is what is tested
        ("::", (True, True)),
        ("localhost", (True, True)),
        ("127.0.0.1", (True, False)),
        ("::1", (False, True)),
    ],
)
def test_host_means_the_same_families_as_for_grpc(host: str, expected: tuple[bool, bool]) -> None:
    port = free_port()
    sockets = listen(host, port)
    try:
        assert (answers("127.0.0.1", port), answers("::1", port)) == expected
    finally:
        for each in sockets:
            each.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_taken_port_is_an_error(host: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(ProgramFailed) as caught,
    ):
        listen(host, server.getsockname()[1])

    assert caught.value.code == "address_in_use"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("::", "http://localhost:3000"),
        ("::1", "http://[::1]:3000"),
        ("127.0.0.1", "http://127.0.0.1:3000"),
        ("localhost", "http://localhost:3000"),
    ],
)
def test_url_can_be_opened(host: str, url: str) -> None:
    assert url_of(host, 3000) == url
